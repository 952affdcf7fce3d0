//! Processes that PostgreSQL is made of: whose they are, how they start, and that they never outlive us.

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Recovery after a crash replays what the last checkpoint left: minutes at worst.
const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a process that starts or stops.
const LOOK: Duration = Duration::from_millis(10);
/// How much of the log an error shows, in lines.
const LOG_LINES: usize = 15;

/// Whom PostgreSQL's processes and files belong to.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// Set where we are root: `postgres` if the machine has it, else `nobody`.
    drop_to: Option<(u32, u32)>,
}

impl Owner {
    pub(crate) fn choose() -> Result<Self, String> {
        let me = fs::metadata("/proc/self").map_err(|error| format!("cannot read /proc/self: {error}"))?.uid();
        if me != 0 {
            return Ok(Self { drop_to: None });
        }
        let users = fs::read_to_string("/etc/passwd").map_err(|error| format!("cannot read /etc/passwd: {error}"))?;
        let user = |wanted: &str| {
            let mut fields = users.lines().find(|line| line.split(':').next() == Some(wanted))?.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let drop_to = user("postgres").or_else(|| user("nobody"));
        match drop_to {
            Some(_) => Ok(Self { drop_to }),
            None => Err("PostgreSQL cannot run as root, and there is neither a user postgres nor a user nobody".into()),
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.drop_to.is_some()
    }

    /// Ligne's directory of one sort: below `system` for root, since /root is closed to others; else the user's own.
    pub(crate) fn home(&self, system: &str, variable: &str, fallback: &str) -> Result<PathBuf, String> {
        if self.is_root() {
            return Ok(Path::new(system).join("ligne"));
        }
        let chosen = std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let own = || std::env::var_os("HOME").map(|home| Path::new(&home).join(fallback));
        chosen.or_else(own).map(|dir| dir.join("ligne")).ok_or_else(|| format!("neither {variable} nor HOME is set"))
    }

    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        match self.drop_to {
            Some((user, group)) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// A command that runs as this owner, in a process group of its own so that Ctrl-C is ours alone to handle.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .process_group(0);
        if let Some((user, group)) = self.drop_to {
            command.uid(user).gid(group);
        }
        command
    }
}

/// Runs to the end; the error carries what was said.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(format!("{name} failed ({}):\n{}", done.status, last_lines(&said)))
}

/// The first process of a running PostgreSQL.
pub(crate) struct Postmaster {
    child: Child,
    log: PathBuf,
}

impl Postmaster {
    /// Returns when it accepts connections.
    pub(crate) fn start(mut postgres: Command, data: &Path, log: &Path) -> Result<Self, String> {
        let pid_file = data.join("postmaster.pid");
        // One that a crash left would read as "ready" before ours is written.
        match fs::remove_file(&pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("cannot remove {}: {error}", pid_file.display()));
            }
            _ => {}
        }
        let output = File::create(log).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, errors) = output.map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let started = postgres.stdin(Stdio::null()).stdout(out).stderr(errors).spawn();
        let child = started.map_err(|error| format!("cannot run postgres: {error}"))?;
        let mut postmaster = Self { child, log: log.to_owned() };
        let until = Instant::now() + START_PATIENCE;
        while !is_ready(&pid_file) {
            let gone = postmaster.child.try_wait().map_err(|error| format!("cannot watch postgres: {error}"))?;
            if gone.is_some() || Instant::now() > until {
                let what = if gone.is_some() { "PostgreSQL ended while it started" } else { "PostgreSQL does not get ready" };
                return Err(postmaster.told(what));
            }
            sleep(LOOK);
        }
        Ok(postmaster)
    }

    /// Ends it by a signal: `INT` in order, `QUIT` at once.
    pub(crate) fn end(mut self, name: &str) -> Result<(), String> {
        signal(self.child.id(), name)?;
        let until = Instant::now() + STOP_PATIENCE;
        while self.child.try_wait().map_err(|error| format!("cannot watch postgres: {error}"))?.is_none() {
            if Instant::now() > until {
                return Err(self.told("PostgreSQL does not stop"));
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn told(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        format!("{what}; its log {} ends with:\n{}", self.log.display(), last_lines(&log))
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        // Only one that failed to start or to stop is still there.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The eighth line of `postmaster.pid` is its state.
fn is_ready(pid_file: &Path) -> bool {
    fs::read_to_string(pid_file).is_ok_and(|text| text.lines().nth(7).is_some_and(|state| state.trim() == "ready"))
}

/// The postmaster that works in this directory, whoever started it. A process number alone may have been given to another.
fn running_in(data: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()?;
    let place = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (place == data).then_some(pid)
}

/// Ends a PostgreSQL that was left behind.
pub(crate) fn end_orphan(data: &Path) -> Result<(), String> {
    let Some(pid) = running_in(data) else { return Ok(()) };
    signal(pid, "INT")?;
    let until = Instant::now() + STOP_PATIENCE;
    while running_in(data).is_some() {
        if Instant::now() > until {
            return Err(format!("a PostgreSQL left behind in {} (process {pid}) does not stop", data.display()));
        }
        sleep(LOOK);
    }
    Ok(())
}

fn signal(pid: u32, name: &str) -> Result<(), String> {
    // The shell's own kill: the standard library has no signals.
    run(Command::new("/bin/sh").args(["-c", &format!("kill -{name} {pid}")])).map(drop)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A shell that outlives us by a moment: when the pipe between us closes it ends PostgreSQL, and removes an ephemeral cluster.
pub(crate) struct Watcher {
    child: Child,
    /// Closing it is the message.
    pipe: Option<ChildStdin>,
}

const WATCH: &str = r#"
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
works() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if works "$1"; then
  kill "-$2" "$pid"
  while works "$1"; do sleep 0.05; done
fi
if [ "$2" = QUIT ]; then rm -rf -- "$1"; fi
"#;

impl Watcher {
    /// `home` holds `data`; it goes when `ephemeral`.
    pub(crate) fn start(home: &Path, ephemeral: bool) -> Result<Self, String> {
        let signal = if ephemeral { "QUIT" } else { "INT" };
        let mut child = Command::new("/bin/sh")
            .args(["-c", WATCH, "ligne-watcher"])
            .arg(home)
            .arg(signal)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot run /bin/sh: {error}"))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.pipe.take();
        let _ = self.child.wait();
    }
}
