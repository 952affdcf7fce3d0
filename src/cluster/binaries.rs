//! PostgreSQL's programs: on this machine, or fetched from its own Debian repositories into a cache, without any right.

use crate::{
    process::{Owner, run},
    said,
};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest release that Ligne works with.
const OLDEST: u32 = 15;

#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    bin: PathBuf,
    /// Directories of unpacked libraries; empty for an installed PostgreSQL.
    libraries: Vec<PathBuf>,
    /// 15, 16, …
    pub(crate) version: u32,
}

impl Binaries {
    /// The newest on the PATH, else the newest installed, else the one fetched before; else fetches it (some 60 MB).
    pub(crate) fn find_or_fetch(owner: &Owner, notice: fn(&str)) -> Result<Self, String> {
        let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        let cache = owner.home("/var/cache", "XDG_CACHE_HOME", ".cache")?.join("postgresql");
        let found = Self::newest(on_path, &[], owner)
            .or_else(|| Self::newest(installed(Path::new("/")), &[], owner))
            .or_else(|| Self::fetched(&cache, owner));
        if let Some(found) = found {
            return Ok(found);
        }
        fetch(&cache, notice).map_err(|error| {
            format!(
                "PostgreSQL {OLDEST} or later is not installed and cannot be fetched: install it, or set DATABASE_URL.\n{error}"
            )
        })?;
        Self::fetched(&cache, owner)
            .ok_or_else(|| format!("the PostgreSQL fetched into {} is older than {OLDEST} or does not run", cache.display()))
    }

    fn fetched(cache: &Path, owner: &Owner) -> Option<Self> {
        let root = cache.join("root");
        let mut libraries: Vec<PathBuf> = Vec::new();
        for place in ["usr/lib", "lib"] {
            libraries.extend(entries(&root.join(place)).filter(|dir| dir.to_string_lossy().ends_with("-linux-gnu")));
        }
        Self::newest(installed(&root), &libraries, owner)
    }

    fn newest(places: Vec<PathBuf>, libraries: &[PathBuf], owner: &Owner) -> Option<Self> {
        let usable = places.into_iter().filter_map(|bin| {
            // Programs find their share directory from where they really are.
            let bin = bin.join("initdb").canonicalize().ok()?.parent()?.to_owned();
            let mut binaries = Self { bin, libraries: libraries.to_vec(), version: 0 };
            // Asked as the one who will run them: a directory in /root is of no use to `nobody`.
            let told = run(binaries.command("postgres", owner).arg("--version").current_dir("/")).ok()?;
            let version = told.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())?;
            binaries.version = version;
            (version >= OLDEST).then_some(binaries)
        });
        usable.max_by_key(|binaries| binaries.version)
    }

    pub(crate) fn command(&self, program: &str, owner: &Owner) -> Command {
        let mut command = owner.command(&self.bin.join(program));
        if let Ok(paths) = std::env::join_paths(&self.libraries)
            && !paths.is_empty()
        {
            command.env("LD_LIBRARY_PATH", paths);
        }
        command
    }
}

/// Where Debian's packages put the programs of each release.
fn installed(root: &Path) -> Vec<PathBuf> {
    entries(&root.join("usr/lib/postgresql")).map(|release| release.join("bin")).collect()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Downloads the package `postgresql` and what it needs, with lists and cache of our own, and unpacks it all.
fn fetch(cache: &Path, notice: fn(&str)) -> Result<(), String> {
    let (lists, archives, draft, root) =
        (cache.join("state/lists"), cache.join("cache/archives"), cache.join("draft"), cache.join("root"));
    for dir in [&lists, &archives] {
        fs::create_dir_all(dir.join("partial")).map_err(|error| said("cannot make", dir, &error))?;
    }
    let lock = fs::File::create(cache.join("lock")).map_err(|error| said("cannot write", cache, &error))?;
    // Another process may be fetching: then this waits, and finds it done.
    lock.lock().map_err(|error| said("cannot lock", cache, &error))?;
    if root.exists() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        let option = |name: &str, value: &Path| {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            option
        };
        apt.arg("-o").arg(option("Dir::State", &cache.join("state")));
        apt.arg("-o").arg(option("Dir::State::status", Path::new("/var/lib/dpkg/status")));
        apt.arg("-o").arg(option("Dir::Cache", &cache.join("cache")));
        apt.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-qq", "-y"]);
        apt.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        run(apt.args(arguments))
    };
    notice("Fetching PostgreSQL from this machine's Debian repositories, without installing it …");
    apt(&["update"])?;
    apt(&["install", "--download-only", "--no-install-recommends", "postgresql"])?;
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(|error| said("cannot clear", &draft, &error))?;
    }
    fs::create_dir_all(&draft).map_err(|error| said("cannot make", &draft, &error))?;
    notice("Unpacking PostgreSQL …");
    let packages: Vec<PathBuf> = entries(&archives).filter(|file| file.extension().is_some_and(|end| end == "deb")).collect();
    for package in &packages {
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&draft))?;
    }
    fs::rename(&draft, &root).map_err(|error| said("cannot write", &root, &error))?;
    // Unpacked they are of no more use.
    let _ = fs::remove_dir_all(cache.join("cache")).and_then(|()| fs::remove_dir_all(cache.join("state")));
    Ok(())
}
