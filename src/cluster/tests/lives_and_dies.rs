//! A private PostgreSQL starts, accepts only its own password, survives a crash of its own and never its owner's.
use cluster::{Cluster, Options};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Speaks just enough of the protocol to hear whether somebody there asks for a password.
fn asks_for_a_password(port: u16) -> bool {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    // length, protocol 3.0, user
    let hello = server.write_all(b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0");
    let mut answer = [0; 9];
    // 'R', length, 10: SASL authentication
    hello.and_then(|()| server.read_exact(&mut answer)).is_ok() && answer[0] == b'R' && answer[8] == 10
}

#[test]
fn it_starts_crashes_recovers_and_is_gone() {
    let mut cluster = Cluster::start(Options::fast().set("shared_buffers", "16MB")).unwrap();
    let (port, log) = (cluster.port(), cluster.log());
    assert!(asks_for_a_password(port));
    assert!(
        cluster.url().contains(&format!("@127.0.0.1:{port}/postgres"))
            && !format!("{cluster:?}").contains(&cluster.url()[20..40])
    );
    cluster.stop_immediately().unwrap();
    assert!(!asks_for_a_password(port));
    cluster.restart().unwrap();
    assert!(asks_for_a_password(port));
    assert!(std::fs::read_to_string(&log).unwrap().contains("automatic recovery in progress"));
    cluster.restart().unwrap();
    assert!(asks_for_a_password(port));
    drop(cluster);
    assert!(!asks_for_a_password(port));
    assert!(!log.parent().unwrap().exists());
}

#[test]
fn a_durable_one_is_found_again_and_has_one_owner_at_a_time() {
    let home = std::env::temp_dir().join(format!("ligne-test-{}", std::process::id()));
    let options = || Options { data_dir: Some(home.clone()), ..Options::default() }.set("fsync", "off");
    let mut first = Cluster::start(options()).unwrap();
    let password = first.url().split(['/', '@']).nth(2).unwrap().to_owned();
    let second = Cluster::start(options()).unwrap_err();
    assert!(second.starts_with("another process uses the PostgreSQL in"), "{second}");
    first.stop().unwrap();
    drop(first);
    let again = Cluster::start(options()).unwrap();
    assert!(again.url().contains(&password) && asks_for_a_password(again.port()));
    drop(again);
    std::fs::remove_dir_all(&home).unwrap();
}

#[test]
fn a_bad_setting_is_told_with_the_log() {
    let error = Cluster::start(Options::fast().set("no_such_setting", "1")).unwrap_err();
    assert!(error.contains("postgres.log") && error.contains("no_such_setting"), "{error}");
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn owner() {
    if std::env::var_os("LIGNE_TEST_OWNER").is_none() {
        return;
    }
    let cluster = Cluster::start(Options::fast()).unwrap();
    println!("\nowner {} {}", cluster.port(), cluster.log().display());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn killing_its_owner_ends_it() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--nocapture"])
        .env("LIGNE_TEST_OWNER", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find(|line| line.starts_with("owner ")).unwrap();
    let mut told = told.split(' ').skip(1);
    let (port, log) = (told.next().unwrap().parse().unwrap(), told.next().unwrap().to_owned());
    assert!(asks_for_a_password(port));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(300);
    while Path::new(&log).parent().unwrap().exists() {
        assert!(Instant::now() < until, "PostgreSQL outlived its owner");
        std::thread::yield_now();
    }
    assert!(!asks_for_a_password(port));
}
