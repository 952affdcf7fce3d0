//! A PostgreSQL to play with: `cargo run -p cluster --example start [DIRECTORY]` prints its address and keeps it until Enter.
use cluster::{Cluster, Options};

fn main() -> Result<(), String> {
    let data_dir = std::env::args_os().nth(1).map(Into::into);
    let cluster = Cluster::start(Options {
        ephemeral: data_dir.is_none(),
        data_dir,
        notice: |what| eprintln!("{what}"),
        ..Options::default()
    })?;
    println!("{}", cluster.url());
    std::io::stdin().read_line(&mut String::new()).map(drop).map_err(|error| error.to_string())
}
