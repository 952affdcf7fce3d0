//! `cargo verify`: every check and test of Ligne, in order, with a PostgreSQL of its own; stops at the first that fails.
//! With words (`cargo verify floors text`) only the checks whose names contain one of them.

mod floors;
mod text;

use cluster::{Cluster, Options};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

/// Tools beside the toolchain, installed below `target/tools` where they are missing. Exact versions: a verdict should not
/// change because a tool did.
const DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const MACHETE: (&str, &str) = ("cargo-machete", "0.9.2");

/// Of the tests' PostgreSQL: enough for as many tests at once as a large machine has cores.
const CONNECTIONS: u32 = 1_000;
/// Tests that are told by name and time.
const SLOWEST: usize = 15;
/// Lines of each panic that are told again, and letters of each.
const PANIC_LINES: usize = 4;
const PANIC_WIDTH: usize = 300;

fn main() -> ExitCode {
    let started = Instant::now();
    let checks: [Check; 11] = [
        ("formatting", |v| v.cargo(&["fmt", "--all", "--check", "--", "--color=never"])),
        ("floors: a crate imports only from below", |v| floors::check(&v.cargo_output(&FLOORS)?)),
        ("house rules in the text", |v| text::check(&v.root)),
        ("lints, and no clock or chance in workflows", |v| {
            v.cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
        }),
        ("documentation", |v| v.documentation()),
        ("bans, licences, sources of dependencies", |v| {
            v.tool(DENY, &["--color", "never", "check", "bans", "licenses", "sources"])
        }),
        ("unused dependencies", |v| v.tool(MACHETE, &["."])),
        ("build of the program", |v| v.cargo(&["build", "--locked"])),
        ("build of the tests", |v| v.cargo(&["test", "--workspace", "--locked", "--no-run"])),
        ("tests", |v| v.tests()),
        ("ligne demo", |v| v.demo()),
    ];
    let verify = match Verify::open() {
        Ok(verify) => verify,
        Err(error) => {
            eprintln!("cargo verify cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let words: Vec<String> = env::args().skip(1).collect();
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<&Check> = checks.iter().filter(|(name, _)| chosen(name)).collect();
    for (done, (name, check)) in chosen.iter().enumerate() {
        let at = Instant::now();
        eprintln!("      {name} …");
        if let Err(output) = check(&verify) {
            eprintln!("{output}");
            println!("FAIL  {name} ({:.1} s); {done} of {} checks passed, {:.0} s", seconds(at), chosen.len(), seconds(started));
            return ExitCode::FAILURE;
        }
        println!("ok    {name} ({:.1} s)", seconds(at));
    }
    println!("verified: {} of {} checks, {:.0} s", chosen.len(), checks.len(), seconds(started));
    ExitCode::SUCCESS
}

const FLOORS: [&str; 10] =
    ["tree", "--workspace", "--locked", "--edges", "normal,build", "--depth", "1", "--prefix", "depth", "--format={p}"];

/// What a check is called, and what it does.
type Check = (&'static str, fn(&Verify) -> Outcome);
/// `Err` holds what the check said.
type Outcome = Result<(), String>;

struct Verify {
    root: PathBuf,
    cargo: PathBuf,
    target: PathBuf,
}

impl Verify {
    fn open() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().map_err(|error| format!("the source in {} is gone: {error}", root.display()))?;
        let cargo = env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Self { target: root.join(target), root, cargo })
    }

    /// Cargo in the workspace, deaf to what its caller set for another database or for this program's own build.
    fn cargo_command(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(&self.cargo);
        cargo.current_dir(&self.root).args(arguments).env_remove("DATABASE_URL").env("CARGO_TERM_COLOR", "never");
        cargo.env("CARGO_TARGET_DIR", &self.target);
        for (name, _) in
            env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR")
        {
            cargo.env_remove(name);
        }
        cargo
    }

    fn cargo(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.cargo_command(arguments)).map(drop)
    }

    fn cargo_output(&self, arguments: &[&str]) -> Result<String, String> {
        run(&mut self.cargo_command(arguments))
    }

    fn documentation(&self) -> Outcome {
        let mut doc = self.cargo_command(&["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
        // Links from public to private items are for those who read the source, for whom these pages are.
        run(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links")).map(drop)
    }

    /// Runs a cargo tool in the workspace, after installing it below `target` if this version is not there.
    fn tool(&self, (name, version): (&str, &str), arguments: &[&str]) -> Outcome {
        let place = self.target.join("tools").join(format!("{name}-{version}"));
        let program = place.join("bin").join(name);
        if !program.exists() {
            eprintln!("      installing {name} {version} (once; a minute or two) …");
            let mut install = self.cargo_command(&["install", "--locked", "--quiet", name, "--version", version, "--root"]);
            // Its build is no part of the workspace's, and needs no debugging.
            run(install
                .arg(&place)
                .env("CARGO_TARGET_DIR", self.target.join("tools/build"))
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"))?;
            fs::remove_dir_all(self.target.join("tools/build"))
                .map_err(|error| format!("cannot clear target/tools/build: {error}"))?;
        }
        let mut tool = Command::new(program);
        // They ask cargo, and find this one first.
        let inherited = env::var_os("PATH").unwrap_or_default();
        let path = self.cargo.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&inherited));
        let path = env::join_paths(path).map_err(|error| format!("PATH cannot be passed on: {error}"))?;
        run(tool.args(arguments).current_dir(&self.root).env("PATH", path).env("CARGO", &self.cargo)).map(drop)
    }

    /// The tests find their database at run time only: what is compiled reads `.sqlx`. Each binary by itself, to the last test,
    /// whatever fails; nothing is tried twice.
    fn tests(&self) -> Outcome {
        let options = Options { notice: |what| eprintln!("      {what}"), ..Options::fast() };
        let cluster = Cluster::start(options.set("max_connections", CONNECTIONS))?;
        let built = self.cargo_output(&["test", "--workspace", "--locked", "--no-run", "--message-format=json"])?;
        let (mut passed, mut times, mut failed, mut why) = (0, Vec::new(), Vec::new(), Vec::new());
        for binary in built.lines().filter_map(Binary::of) {
            let at = Instant::now();
            match run(&mut binary.command(&cluster.url())) {
                Ok(said) => {
                    let done: Vec<_> = said.lines().filter_map(|line| time_of(line, &binary.name)).collect();
                    eprintln!("      {}: {} tests ({:.1} s)", binary.name, done.len(), seconds(at));
                    passed += done.len();
                    times.extend(done);
                }
                Err(said) => {
                    eprintln!("{said}");
                    why.extend(panics(&said));
                    failed.push(binary.name);
                }
            }
        }
        self.cargo(&["test", "--workspace", "--locked", "--doc", "--quiet"])?;
        times.sort_by(|one, other| other.0.total_cmp(&one.0));
        for (time, name) in times.iter().take(SLOWEST) {
            eprintln!("      {time:6.1} s  {name}");
        }
        match (passed, failed.join(", ")) {
            (0, failed) if failed.is_empty() => Err("no test ran".into()),
            (_, failed) if failed.is_empty() => {
                eprintln!("      {passed} tests passed");
                Ok(())
            }
            (_, failed) => Err(format!("{}\ntests failed in: {failed}", why.join("\n"))),
        }
    }

    /// As a newcomer runs it: no configuration, no terminal; outside the checkout, so that no `.env` is found.
    fn demo(&self) -> Outcome {
        let elsewhere = env::temp_dir().join(format!("ligne-verify-{}", std::process::id()));
        fs::create_dir_all(&elsewhere).map_err(|error| format!("cannot make {}: {error}", elsewhere.display()))?;
        let mut demo = Command::new(self.target.join("debug/ligne"));
        for (name, _) in env::vars_os() {
            let known = name.to_string_lossy().into_owned();
            if ["LIGNE_", "META_", "TELNYX_"].iter().any(|ours| known.starts_with(ours)) || known == "DATABASE_URL" {
                demo.env_remove(name);
            }
        }
        let outcome = run(demo.arg("demo").current_dir(&elsewhere)).map(drop);
        fs::remove_dir_all(&elsewhere).map_err(|error| format!("cannot remove {}: {error}", elsewhere.display()))?;
        outcome
    }
}

/// A program of tests.
struct Binary {
    /// `store/queries`
    name: String,
    program: PathBuf,
    /// Where cargo runs it: its crate.
    directory: PathBuf,
}

impl Binary {
    /// From one of cargo's messages, if it is about such a program.
    fn of(message: &str) -> Option<Self> {
        let field = |name: &str| {
            let (_, value) = message.split_once(&format!("\"{name}\":\""))?;
            value.split('"').next()
        };
        let (profile, _) = message.split_once("\"profile\":{")?.1.split_once('}')?;
        if !profile.contains("\"test\":true") {
            return None;
        }
        let (program, directory) = (PathBuf::from(field("executable")?), Path::new(field("manifest_path")?).parent()?);
        // Cargo calls it by its target and a hash.
        let target = program.file_name()?.to_str()?.rsplit_once('-')?.0;
        let name = format!("{}/{target}", directory.file_name()?.to_str()?);
        Some(Self { name, directory: directory.into(), program })
    }

    /// Its tests say how long each took, which needs leave on a stable toolchain.
    fn command(&self, database: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-Zunstable-options", "--report-time"]).env("RUSTC_BOOTSTRAP", "1");
        command.env("DATABASE_URL", database).env("CARGO_MANIFEST_DIR", &self.directory).current_dir(&self.directory);
        command
    }
}

/// Seconds and full name of a test that passed: `test rates::rise ... ok <0.003s>`.
fn time_of(line: &str, binary: &str) -> Option<(f64, String)> {
    let (name, time) = line.strip_prefix("test ")?.split_once(" ... ok <")?;
    Some((time.strip_suffix("s>")?.parse().ok()?, format!("{binary} {name}")))
}

/// Where tests panicked and what they said, out of all that a program of tests said: again at the very end, where people look.
fn panics(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().collect();
    let panics = lines.iter().enumerate().filter(|(_, line)| line.starts_with("thread '") && line.contains("panicked at"));
    let told = panics.map(|(place, _)| lines[place..].iter().take(PANIC_LINES));
    told.map(|told| told.map(|line| line.chars().take(PANIC_WIDTH).collect::<String>()).collect::<Vec<_>>().join("\n")).collect()
}

/// Runs to the end without a terminal; what it wrote to its output, or all that it said as the error.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {name}: {error}"))?;
    let (output, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(output.into_owned()) } else { Err(format!("{output}{errors}{name}: {}", done.status)) }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_tests_are() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/x/src/store/Cargo.toml","target":{"kind":["test"],"test":true},"profile":{"opt_level":"0","test":true},"executable":"/t/debug/deps/queries-0a1b","fresh":true}"#;
        let binary = Binary::of(message).expect("a program");
        assert_eq!((binary.name.as_str(), binary.program.to_str()), ("store/queries", Some("/t/debug/deps/queries-0a1b")));
        assert!(
            Binary::of(&message.replace(r#""0","test":true"#, r#""0","test":false"#)).is_none(),
            "a program, but none of tests"
        );
        assert!(Binary::of(&message.replace(r#""executable":"/t/debug/deps/queries-0a1b""#, r#""executable":null"#)).is_none());
        assert_eq!(time_of("test a::b ... ok <1.250s>", "store/queries"), Some((1.25, "store/queries a::b".to_owned())));
        assert_eq!(
            panics("noise\nthread 'a::b' (7) panicked at x.rs:1:2:\nassertion failed\nleft\nright\nmore"),
            ["thread 'a::b' (7) panicked at x.rs:1:2:\nassertion failed\nleft\nright"]
        );
        assert_eq!(time_of("test a::b ... FAILED <1.250s>", "store/queries"), None);
    }
}
