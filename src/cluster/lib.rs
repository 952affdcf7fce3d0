//! A private PostgreSQL: found or fetched, started as an unprivileged user, stopped again. Needs Linux and nothing else of ours.

mod binaries;
mod process;

use binaries::Binaries;
use process::{Owner, Postmaster, Watcher, run};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// How many free ports are tried: between finding one and using it somebody else may take it.
const PORT_TRIES: usize = 5;
/// Random bytes of the password.
const PASSWORD_BYTES: usize = 24;

/// What to start. `Options::default()` is a durable cluster in the user's data directory.
pub struct Options {
    /// Where the cluster lives. `None`: `/var/lib/ligne/cluster` for root, `$XDG_DATA_HOME/ligne/cluster` for others,
    /// and for an ephemeral one a new directory under the system's temporary one.
    pub data_dir: Option<PathBuf>,
    /// Removed when it is stopped, dropped, or its process dies.
    pub ephemeral: bool,
    /// PostgreSQL settings, as in `postgresql.conf`; they override ours.
    pub settings: Vec<(String, String)>,
    /// Told what takes long: `"Fetching PostgreSQL …"`.
    pub notice: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self { data_dir: None, ephemeral: false, settings: Vec::new(), notice: |_| {} }
    }
}

impl Options {
    /// Gone afterwards, but as durable as any while it lives.
    pub fn ephemeral() -> Self {
        Self { ephemeral: true, ..Self::default() }
    }

    /// For tests: ephemeral, and never waits for a disk.
    pub fn fast() -> Self {
        let off = ["fsync", "synchronous_commit", "full_page_writes"].map(|name| (name.to_owned(), "off".to_owned()));
        Self { settings: off.into(), ..Self::ephemeral() }
    }

    /// Sets one PostgreSQL setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A running PostgreSQL of our own: TCP on 127.0.0.1 only, a free port, scram and a random password, no Unix socket.
///
/// It ends with its owner: by [`Cluster::stop`], on drop, and, if this process is killed, by a watcher that sees the pipe
/// between them close. As root it runs under the user `postgres` or `nobody`, since PostgreSQL refuses to be root.
pub struct Cluster {
    home: PathBuf,
    binaries: Binaries,
    owner: Owner,
    settings: Vec<(String, String)>,
    ephemeral: bool,
    port: u16,
    password: String,
    postmaster: Option<Postmaster>,
    watcher: Option<Watcher>,
    /// Held as long as the cluster is ours.
    _lock: File,
}

impl Cluster {
    /// Finds PostgreSQL 15 or later, or fetches it from the machine's Debian repositories without any right; makes the
    /// cluster if there is none yet, starts it and returns when it accepts connections.
    ///
    /// Errors are sentences for people; those of PostgreSQL end with its log.
    pub fn start(options: Options) -> Result<Self, String> {
        let owner = Owner::choose()?;
        let binaries = Binaries::find_or_fetch(&owner, options.notice)?;
        if !Path::new("/usr/share/zoneinfo/UTC").exists() {
            return Err("PostgreSQL needs the time zones in /usr/share/zoneinfo: install the package tzdata".into());
        }
        let home = match options.data_dir {
            Some(dir) => dir,
            None if options.ephemeral => std::env::temp_dir().join(format!("ligne-{}-{}", std::process::id(), random_hex(4)?)),
            None => owner.home("/var/lib", "XDG_DATA_HOME", ".local/share")?.join("cluster"),
        };
        if options.ephemeral && home.exists() {
            return Err(format!("{} exists already: an ephemeral cluster makes its own directory", home.display()));
        }
        make_dir(&home, &owner)?;
        let home = home.canonicalize().map_err(|error| said("cannot use", &home, &error))?;
        let lock = lock(&home.join("lock"), &format!("another process uses the PostgreSQL in {}", home.display()))?;
        let mut cluster = Self {
            watcher: Some(Watcher::start(&home, options.ephemeral)?),
            home,
            binaries,
            owner,
            settings: options.settings,
            ephemeral: options.ephemeral,
            port: 0,
            password: String::new(),
            postmaster: None,
            _lock: lock,
        };
        // Whoever ran it before was killed together with its watcher.
        process::end_orphan(&cluster.data())?;
        cluster.password = cluster.initialise(options.notice)?;
        cluster.launch_on_a_free_port()?;
        Ok(cluster)
    }

    /// `postgres://postgres:…@127.0.0.1:port/postgres`: of the superuser, and as secret as its password.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same for another database of this cluster.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// PostgreSQL's own log.
    pub fn log(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    /// Stops it in order (`fast`): open transactions are rolled back, the data is on disk. Twice is no error.
    pub fn stop(&mut self) -> Result<(), String> {
        self.postmaster.take().map_or(Ok(()), |postmaster| postmaster.end("INT"))
    }

    /// Stops it as a crash would (`immediate`): the next start recovers from the WAL.
    pub fn stop_immediately(&mut self) -> Result<(), String> {
        self.postmaster.take().map_or(Ok(()), |postmaster| postmaster.end("QUIT"))
    }

    /// Starts it again on the same port, after stopping it if it runs.
    pub fn restart(&mut self) -> Result<(), String> {
        self.stop()?;
        self.launch()
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// `initdb`, unless it was done; a half-made cluster is made again. Returns the password.
    fn initialise(&self, notice: fn(&str)) -> Result<String, String> {
        let (data, kept) = (self.data(), self.home.join("password"));
        if let Ok(password) = fs::read_to_string(&kept) {
            self.same_version(&data)?;
            return Ok(password);
        }
        notice("Preparing a private PostgreSQL …");
        if data.exists() {
            fs::remove_dir_all(&data).map_err(|error| said("cannot clear", &data, &error))?;
        }
        make_dir(&data, &self.owner)?;
        let password = random_hex(PASSWORD_BYTES)?;
        let draft = self.home.join("password.new");
        write_private(&draft, &password, &self.owner)?;
        let mut initdb = self.binaries.command("initdb", &self.owner);
        initdb.current_dir(&self.home).arg("--pgdata").arg(&data).arg("--pwfile").arg(&draft).args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-instructions",
        ]);
        if self.ephemeral {
            initdb.arg("--no-sync");
        }
        run(&mut initdb)?;
        fs::rename(&draft, &kept).map_err(|error| said("cannot write", &kept, &error))?;
        Ok(password)
    }

    fn same_version(&self, data: &Path) -> Result<(), String> {
        let made =
            fs::read_to_string(data.join("PG_VERSION")).map_err(|error| said("cannot read the cluster in", data, &error))?;
        if made.trim() == self.binaries.version.to_string() {
            return Ok(());
        }
        let (made, home) = (made.trim(), self.home.display());
        Err(format!(
            "the cluster in {home} was made by PostgreSQL {made}, but {} is installed: move it away",
            self.binaries.version
        ))
    }

    fn launch_on_a_free_port(&mut self) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..PORT_TRIES {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
            self.port = free.map_err(|error| format!("no free port on 127.0.0.1: {error}"))?.port();
            match self.launch() {
                Err(error) if error.contains("could not bind") => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    fn launch(&mut self) -> Result<(), String> {
        let mut postgres = self.binaries.command("postgres", &self.owner);
        postgres.current_dir(&self.home).arg("-D").arg(self.data());
        let port = self.port.to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("max_connections", "200"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("jit", "off"),
        ];
        let theirs = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in ours.into_iter().chain(theirs) {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        self.postmaster = Some(Postmaster::start(postgres, &self.data(), &self.log())?);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is left to tell: the watcher tries again, and the next start ends an orphan.
        let _ = if self.ephemeral { self.stop_immediately() } else { self.stop() };
        self.watcher.take();
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({}, port {})", self.home.display(), self.port)
    }
}

/// The process that holds this file open owns what stands beside it; the system lets go when it dies.
fn lock(path: &Path, busy: &str) -> Result<File, String> {
    let file = File::options().create(true).append(true).open(path).map_err(|error| said("cannot open", path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(busy.to_owned()),
        Err(fs::TryLockError::Error(error)) => Err(said("cannot lock", path, &error)),
    }
}

/// A directory that only its owner may enter. Its parents stay as they are, or are open to all.
fn make_dir(path: &Path, owner: &Owner) -> Result<(), String> {
    let made = path.parent().map_or(Ok(()), |parent| fs::DirBuilder::new().recursive(true).mode(0o755).create(parent));
    let made = made.and_then(|()| match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    });
    made.and_then(|()| owner.own(path))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|error| said("cannot make", path, &error))
}

fn write_private(path: &Path, text: &str, owner: &Owner) -> Result<(), String> {
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| owner.own(path))
        .map_err(|error| said("cannot write", path, &error))
}

fn random_hex(bytes: usize) -> Result<String, String> {
    let mut random = vec![0; bytes];
    let read = File::open("/dev/urandom").and_then(|mut urandom| urandom.read_exact(&mut random));
    read.map_err(|error| format!("cannot read /dev/urandom: {error}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn said(what: &str, path: &Path, error: &io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}
