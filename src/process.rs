//! A child process of this program: started, asked to stop, frozen, killed. Also used by the process tests, as it stands.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    net::TcpListener,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use tokio::process::{Child, Command};

/// What a child is told: nothing of ours is inherited.
pub(crate) type Environment = BTreeMap<String, String>;

/// Variables of the parent that a child keeps; everything else it is told.
const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LANG", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE"];

/// A running child. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts `program` in the directory of its `log`, which takes both its streams.
    pub(crate) fn start(program: &Path, arguments: &[&str], environment: &Environment, log: &Path) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(environment)
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .kill_on_drop(true);
        if let Some(directory) = log.parent().filter(|path| path.is_absolute()) {
            command.current_dir(directory);
        }
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process has already ended"))?;
        Ok(Self { child, pid })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// `kill -9`, and gone when this returns.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// SIGTERM, then as long as `patience` allows, then SIGKILL.
    pub(crate) async fn stop(mut self, patience: Duration) -> io::Result<ExitStatus> {
        self.signal("TERM").await?;
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.child.kill().await?;
                Err(io::Error::new(io::ErrorKind::TimedOut, "the process did not stop in time and was killed"))
            }
        }
    }

    /// `TERM`, `STOP` or `CONT`. By the shell's own kill: sending signals takes unsafe code in Rust.
    pub(crate) async fn signal(&self, name: &str) -> io::Result<()> {
        let done = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.pid)).stderr(Stdio::null()).status().await?;
        if done.success() { Ok(()) } else { Err(io::Error::other(format!("process {} takes no signal", self.pid))) }
    }
}

/// A loopback port that nobody listens on, below the range from which the kernel gives ports to outgoing connections:
/// a service that is killed finds it free again.
pub(crate) fn free_port() -> io::Result<u16> {
    const FIRST: u16 = 20_000;
    const LAST: u16 = 31_999;
    const TRIES: usize = 200;
    // One after the other, so that no two of this process meet between finding a port and listening on it.
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::random()));
    (0..TRIES)
        .map(|_| FIRST + next.fetch_add(1, Ordering::Relaxed) % (LAST - FIRST + 1))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no free port on this machine"))
}
