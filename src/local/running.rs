//! [`Running`] and [`Access`]: how programs of the same user share the engine that has a data folder open.
//!
//! Only one engine can use a data folder, and it holds the folder's lock. It writes its address, and a key that is random
//! and new at each start, into a file of the folder that only its owner can read. Another program that finds the folder
//! locked reads the file and uses that engine. A file that a killed engine has left is never read: the lock is free then,
//! and the next engine removes the file.
//!
//! A program that uses the engine of another one shares a lock on that file. So the engine's own program can wait until
//! nobody else uses the engine, and programs that were killed do not count.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::after;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::checkpoint::{engine_file, lock_file};
use super::disk;
use super::server::{Options, Server, Unstarted};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::CancelToken;

/// Time limit of waiting for an engine that starts or stops.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// Time limit of connecting to an engine on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest file that is read.
const MAX_FILE: u64 = 64 << 10;

/// An engine that another program runs, or another part of this one.
///
/// # Example: a second program that uses the folder of a running engine
/// ```
/// use tinkex::local::{Access, Options, Server};
///
/// # let folder = std::env::temp_dir().join(format!("tinkex-running-{}", std::process::id()));
/// let options = Options { data_dir: Some(folder.clone()), ..Options::default() };
/// let server = Server::start(options.clone())?;
/// let Access::Running(running) = Access::open(options)? else { panic!("the folder is not in use") };
/// assert_eq!((running.url(), running.process()), (server.url(), std::process::id()));
/// assert_ne!(running.api_key(), server.api_key());
/// assert!(running.answers());
/// # server.stop();
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone)]
pub struct Running {
    address: Address,
    /// The lock that tells the engine's program about this user, where the system has locks.
    _lock: Arc<File>,
}

/// What the file of an engine says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    url: String,
    api_key: String,
    process: u32,
}

/// Shows all but the key.
impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("url", &self.address.url)
            .field("process", &self.address.process)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// The base URL for clients on this machine.
    pub fn url(&self) -> &str {
        &self.address.url
    }

    /// A key for programs that can read the data folder. It is not the key of [`Options::api_key`], and it is new at each
    /// start.
    pub fn api_key(&self) -> &str {
        &self.address.api_key
    }

    /// Id of the process of the engine.
    pub fn process(&self) -> u32 {
        self.address.process
    }

    /// Returns whether the engine accepts connections.
    ///
    /// # Blocking
    /// At most 2 s.
    pub fn answers(&self) -> bool {
        let address = self.url().strip_prefix("http://").and_then(|it| it.parse::<SocketAddr>().ok());
        address.is_some_and(|it| TcpStream::connect_timeout(&it, CONNECT_TIMEOUT).is_ok())
    }

    /// Reads the file of a data folder. `None` if there is none, if it cannot be understood, or if its engine is about to
    /// end.
    fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = engine_file(data_dir);
        let failed = |error: io::Error| {
            let text =
                format!("cannot read the address of the running engine in {}: {error}", path.display());
            Error::new(ErrorKind::System, text)
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        // A file that others can write could name a server of theirs.
        if !is_private(&file).map_err(failed)? {
            let text = format!("other users may read or write {}: chmod 600 {0}", path.display());
            return Err(Error::new(ErrorKind::System, text));
        }
        // Before reading: from here on the engine's program waits for this one.
        if matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return Ok(None);
        }
        let mut text = String::new();
        (&file).take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        let running = |address| Running { address, _lock: Arc::new(file) };
        Ok(serde_json::from_str(&text).ok().map(running))
    }
}

#[cfg(unix)]
fn is_private(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.mode() & 0o077 == 0)
}

#[cfg(not(unix))]
fn is_private(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// The engine of a data folder: a new one, or the one that has the folder open.
///
/// # Example: two parts of a program that need not know of each other
/// ```
/// use tinkex::ServiceClient;
/// use tinkex::local::{Access, Options};
///
/// # let folder = std::env::temp_dir().join(format!("tinkex-access-{}", std::process::id()));
/// let options = Options { data_dir: Some(folder.clone()), ..Options::default() };
/// let first = Access::open(options.clone())?;
/// let second = Access::open(options)?;
/// assert_eq!(first.url(), second.url());
/// let service = ServiceClient::builder().base_url(second.url()).api_key(second.api_key()).build()?;
/// assert!(!service.get_server_capabilities()?.supported_models.is_empty());
/// # drop((service, second, first));
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Debug)]
pub enum Access {
    /// The folder was free: this engine was started, and stops when the value is dropped.
    Started(Server),
    /// The engine that has the folder open. It stops when its own program says so, and then no request is answered. The
    /// program can wait for this one: see [`Server::wait_for_users`].
    Running(Running),
}

impl Access {
    /// Starts an engine, or finds the one that has [`Options::data_dir`] open. Then the other options are those with which
    /// it was started.
    ///
    /// # Errors
    /// As [`Server::start`], also if the running engine has the port of [`Options::port`]; and an engine has the folder open
    /// and does not answer for 10 s, or belongs to another user.
    ///
    /// # Blocking
    /// As [`Server::start`], and at most 10 s for an engine that starts or stops.
    pub fn open(options: Options) -> Result<Self> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        loop {
            let in_use = match Server::begin(options.clone()) {
                Ok(server) => return Ok(Access::Started(server)),
                Err(Unstarted::Failed(error)) => return Err(error),
                Err(Unstarted::InUse(error)) => error,
            };
            let Some(data_dir) = &options.data_dir else { return Err(in_use) };
            // The engine may be about to write its file, or may have ended since.
            if let Some(running) = Running::read(data_dir)?.filter(Running::answers) {
                return Ok(Access::Running(running));
            }
            if deadline <= Instant::now() {
                return Err(in_use);
            }
            // Receives after the pause; the channel is never closed.
            let _ = after(PAUSE).recv();
        }
    }

    /// The base URL for clients on this machine.
    pub fn url(&self) -> &str {
        match self {
            Access::Started(server) => server.url(),
            Access::Running(running) => running.url(),
        }
    }

    /// The key that requests must carry.
    pub fn api_key(&self) -> &str {
        match self {
            Access::Started(server) => server.api_key(),
            Access::Running(running) => running.api_key(),
        }
    }
}

/// The file with the address of an engine, which other programs find after [`publish`](Self::publish) and until
/// [`withdraw`](Self::withdraw). It is not removed on drop, because a forked child drops it, too.
#[derive(Debug)]
pub(super) struct Announcement {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    /// Locked once the engine is unused, so that a program that has opened the file before does not begin to use it.
    closed: Mutex<Option<File>>,
}

impl Announcement {
    /// Writes the file, under a name that other programs do not look for.
    pub(super) fn write(data_dir: &Path, url: &str, api_key: &str) -> io::Result<Self> {
        let path = engine_file(data_dir);
        let address = Address { url: url.into(), api_key: api_key.into(), process: std::process::id() };
        let text = serde_json::to_vec(&address)?;
        // Readers find no file or the whole one.
        let draft = path.with_extension("new");
        disk::remove(&draft);
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft)?;
        file.write_all(&text)?;
        Ok(Announcement { path, draft, file, closed: Mutex::default() })
    }

    /// Lets other programs find the file. Does nothing after [`withdraw`](Self::withdraw).
    pub(super) fn publish(&self) {
        // Fails only if the draft was removed.
        let _ = fs::rename(&self.draft, &self.path);
    }

    /// Removes the file.
    pub(super) fn withdraw(&self) {
        // The draft first: what is not published by now never will be.
        disk::remove(&self.draft);
        disk::remove(&self.path);
    }

    /// Waits until no other program uses the engine, and withdraws the file. Returns whether that happened in time. Until
    /// then other programs still find the engine.
    pub(super) fn wait_for_users(&self, timeout: Duration, cancel: &CancelToken) -> bool {
        if self.closed.lock().is_some() {
            return true;
        }
        match self.file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            // Where files cannot be locked, users cannot be counted.
            Ok(()) | Err(TryLockError::Error(_)) => {
                self.withdraw();
                return true;
            }
        }
        // Opened anew: a lock belongs to what was opened, and that of a wait that was given up must not stay.
        let Ok(file) = File::open(&self.path) else { return false };
        let over = cancel.child();
        let (locked, signal) = (Arc::new(Mutex::new(None)), over.clone());
        let slot = locked.clone();
        // A lock has no wait with a deadline. The thread ends with the last user.
        let wait = move || {
            if file.lock().is_ok() {
                *slot.lock() = Some(file);
            }
            signal.cancel();
        };
        if std::thread::Builder::new().name("tinkex-users".into()).spawn(wait).is_err() {
            return false;
        }
        over.wait_timeout(timeout);
        let Some(file) = locked.lock().take() else { return false };
        *self.closed.lock() = Some(file);
        self.withdraw();
        true
    }
}

/// Whether a folder is the data folder of an engine, running or not. A folder that this program may not look into counts as
/// one: [`Access::open`] tells that it cannot be used.
///
/// # Example: a folder that an engine has used
/// ```
/// use tinkex::local::{Options, Server, is_data_folder};
///
/// # let folder = std::env::temp_dir().join(format!("tinkex-is-data-folder-{}", std::process::id()));
/// assert!(!is_data_folder(&folder));
/// Server::start(Options { data_dir: Some(folder.clone()), ..Options::default() })?.stop();
/// assert!(is_data_folder(&folder));
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn is_data_folder(dir: &Path) -> bool {
    match fs::metadata(lock_file(dir)) {
        Ok(found) => found.is_file(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    /// Limit against hangs.
    const HANG: Duration = Duration::from_secs(120);

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tinkex-announced-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(path.join(".tinkex")).expect("a folder");
        path
    }

    #[test]
    fn what_an_engine_announces_is_read_back_by_its_user_until_it_ends() {
        let folder = folder("read");
        let read = || Running::read(&folder).expect("a file or none");
        assert!(read().is_none());
        let announcement = Announcement::write(&folder, "http://127.0.0.1:1", "tml-key").expect("a file");
        assert!(read().is_none(), "an engine that is not published");
        announcement.publish();
        let found = read().expect("an engine");
        assert_eq!(
            (found.url(), found.api_key(), found.process()),
            ("http://127.0.0.1:1", "tml-key", std::process::id())
        );
        assert!(!format!("{found:?}").contains("tml-key"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = engine_file(&folder);
            assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
            assert!(Running::read(&folder).expect_err("a refusal").to_string().contains("chmod 600"));
        }
        announcement.withdraw();
        assert!(read().is_none());
        announcement.publish();
        assert!(read().is_none(), "published after its end");
        fs::write(engine_file(&folder), "{").expect("a file");
        #[cfg(not(unix))]
        assert!(read().is_none());
        fs::remove_dir_all(folder).expect("the folder");
    }

    #[test]
    fn an_engine_is_unused_once_its_last_user_has_ended_and_then_it_is_not_found() {
        let folder = folder("users");
        let read = || Running::read(&folder).expect("a file or none");
        let announcement = Announcement::write(&folder, "http://127.0.0.1:1", "tml-key").expect("a file");
        announcement.publish();
        let (first, never) = (read().expect("an engine"), CancelToken::new());
        assert!(!announcement.wait_for_users(Duration::ZERO, &never));
        let second = read().expect("an engine that waits for its users is found");
        let copy = first.clone();
        drop((first, second));
        let cancelled = CancelToken::new();
        cancelled.cancel();
        assert!(!announcement.wait_for_users(HANG, &cancelled), "a copy is a user");
        drop(copy);
        // The waits that were given up must not keep others out.
        let deadline = Instant::now() + HANG;
        let mut looks = std::iter::repeat_with(read).take_while(|_| Instant::now() < deadline);
        let third = looks.find_map(|it| it).expect("an engine");
        let leave = std::thread::spawn(move || drop(third));
        assert!(announcement.wait_for_users(HANG, &never));
        assert!(announcement.wait_for_users(Duration::ZERO, &never), "asked again");
        leave.join().expect("no panic");
        assert!(read().is_none());
        fs::remove_dir_all(folder).expect("the folder");
    }

    #[test]
    fn an_engine_that_is_about_to_end_gets_no_new_user() {
        let folder = folder("ending");
        let announcement = Announcement::write(&folder, "http://127.0.0.1:1", "tml-key").expect("a file");
        announcement.publish();
        announcement.file.lock().expect("a lock");
        assert!(Running::read(&folder).expect("a file").is_none());
        fs::remove_dir_all(folder).expect("the folder");
    }
}
