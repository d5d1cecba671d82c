//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! DIR/identity.json   node, cluster, incarnation; see [`Identity`]
//! DIR/lock            locked while a process uses the directory
//! DIR/log/            the Raft log
//! DIR/state.redb      the applied state
//! DIR/state.damaged   why the state must not be used; made when damage was found in it
//! DIR/damaged-N/      a state, or log and state, that were set aside (N: seconds since 1970), with the reason in why.txt
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::node::ports::{OpenedLog, StorageError};
use crate::types::{NodeId, Version};

use super::REMEDY;
use super::disk::RealDisk;
use super::log::{Log, LogOptions, io_error};
use super::state::{State, StateOptions};

/// The format of the directory that this version writes and reads.
const FORMAT: u32 = 1;
const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";
const LOG: &str = "log";
const STATE: &str = "state.redb";
const CONDEMNED: &str = "state.damaged";
/// A state file up to this size is read through when it is opened, which takes less than a second. Of a larger one, changed
/// values are noticed when they are read, and the rest by the scrub.
const VERIFIED_BYTES_MAX: u64 = 128 << 20;

/// What `identity.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the whole directory.
    pub format: u32,
    /// The node that it belongs to.
    pub node: NodeId,
    /// The configured name of that node's cluster.
    pub cluster: String,
    /// 32 random hexadecimal digits, drawn when the directory was made. A node id that comes back with another one
    /// has lost its votes and its log (safety rule 6).
    pub incarnation: String,
    /// The version that made the directory.
    pub created_by: Version,
    /// Whether the log has been made; from then on its absence is damage, because votes may be in it.
    pub log_made: bool,
    /// Whether the state store has been made.
    pub state_made: bool,
    /// How this node comes back into its cluster after its log was damaged; `None` once it has, and of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin: Option<Rejoin>,
    /// CRC-32 over the fields above, as hexadecimal digits.
    pub checksum: String,
}

/// How a node whose log was damaged comes back: as a new one, through these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoin {
    /// Client URLs of the other super-nodes.
    pub urls: Vec<String>,
    /// Whether it was a reading copy, and is to be one again.
    pub learner_only: bool,
}

impl Identity {
    fn sum(&self) -> String {
        let bare = Identity { checksum: String::new(), ..self.clone() };
        let bytes = serde_json::to_vec(&bare).expect("plain fields always serialise");
        format!("{:08x}", crc32fast::hash(&bytes))
    }
}

/// A data directory that this process uses alone. Keep it as long as its log or state is open: the lock goes with it.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    is_new: bool,
    _lock: File,
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> StorageError {
    StorageError::Damaged { path: path.display().to_string(), offset: 0, why: format!("{why}; {REMEDY}") }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| io_error(action, path, source)
}

fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync directory", path))
}

impl DataDirectory {
    /// Opens the directory of a node, or makes it, readable by its owner only.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when another process uses it, when it belongs to another node or cluster, or was written
    /// by a newer version; [`StorageError::Damaged`] when its identity is missing or has changed.
    pub fn open(path: &Path, node: &NodeId, cluster: &str) -> Result<DataDirectory, StorageError> {
        if fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
            let text = format!("{} is not a directory: use another --data-dir", path.display());
            return Err(StorageError::Refused(text));
        }
        make_directory(path)?;
        let lock = lock(path)?;
        let (identity, is_new) = match read_identity(path)? {
            Some(identity) => (identity, false),
            None => (found(path, node, cluster)?, true),
        };
        if identity.node != *node || identity.cluster != cluster {
            return Err(StorageError::Refused(format!(
                "{} belongs to node '{}' of cluster '{}', not to node '{node}' of cluster '{cluster}': use another \
                 --data-dir or remove it",
                path.display(),
                identity.node,
                identity.cluster,
            )));
        }
        Ok(DataDirectory { path: path.to_path_buf(), identity, is_new, _lock: lock })
    }

    /// Opens a directory that exists, whosesoever it is: for commands that work offline.
    ///
    /// # Errors
    /// As [`DataDirectory::open`]; [`StorageError::Refused`] also when there is no data directory.
    pub fn open_existing(path: &Path) -> Result<DataDirectory, StorageError> {
        let none =
            || StorageError::Refused(format!("{} is not a data directory: check --data-dir", path.display()));
        // Looks before it locks, so as not to leave a lock file in somebody else's directory.
        if read_identity(path)?.is_none() {
            return Err(none());
        }
        let lock = lock(path)?;
        let identity = read_identity(path)?.ok_or_else(none)?;
        Ok(DataDirectory { path: path.to_path_buf(), identity, is_new: false, _lock: lock })
    }

    /// Whose the directory at `path` is; `None` if it is not a data directory yet. Locks nothing.
    ///
    /// # Errors
    /// As [`DataDirectory::open`], as far as the identity goes.
    pub fn identity_at(path: &Path) -> Result<Option<Identity>, StorageError> {
        read_identity(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether this call of [`DataDirectory::open`] made it: the node has no past here.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The number that marks this directory's log records as its own; from the incarnation.
    pub fn salt(&self) -> u64 {
        self.identity
            .incarnation
            .get(..16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .unwrap_or_default()
    }

    /// The disk that the log lies on.
    pub fn log_disk(&self) -> Result<RealDisk, StorageError> {
        let path = self.path.join(LOG);
        RealDisk::open(&path).map_err(failed("open", &path))
    }

    /// Opens the log; makes it the first time.
    pub fn open_log(&mut self) -> Result<OpenedLog<Log<RealDisk>>, StorageError> {
        if !self.identity.log_made {
            make_directory(&self.path.join(LOG))?;
            sync_directory(&self.path)?;
        } else if !self.path.join(LOG).is_dir() {
            return Err(damaged(&self.path.join(LOG), "the log is missing"));
        }
        let options =
            LogOptions { salt: self.salt(), create: !self.identity.log_made, ..LogOptions::default() };
        let opened = Log::open(self.log_disk()?, options)?;
        if !self.identity.log_made {
            self.identity.log_made = true;
            write_identity(&self.path, &mut self.identity)?;
        }
        Ok(opened)
    }

    /// Opens the state; makes it the first time. A state that was condemned is damaged.
    pub fn open_state(&mut self) -> Result<State, StorageError> {
        if let Some(why) = self.condemned()? {
            return Err(damaged(&self.path.join(STATE), why));
        }
        let bytes = fs::metadata(self.path.join(STATE)).map_or(0, |file| file.len());
        let options = StateOptions {
            create: !self.identity.state_made,
            verify: bytes <= VERIFIED_BYTES_MAX,
            ..StateOptions::default()
        };
        let state = State::open(&self.path.join(STATE), &options)?;
        if !self.identity.state_made {
            sync_directory(&self.path)?;
            self.identity.state_made = true;
            write_identity(&self.path, &mut self.identity)?;
        }
        Ok(state)
    }
}

impl DataDirectory {
    /// Why the state must not be used, if it was condemned.
    fn condemned(&self) -> Result<Option<String>, StorageError> {
        let mark = self.path.join(CONDEMNED);
        match fs::read_to_string(&mark) {
            Ok(why) => Ok(Some(why.trim().to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &mark)(error)),
        }
    }

    /// Moves the state into a directory of its own, where it can be looked at, so that the next
    /// [`DataDirectory::open_state`] makes a new one. Gives that directory. The state must not be open.
    ///
    /// # Errors
    /// [`StorageError::Io`]; whatever was done by then, the call can be repeated.
    pub fn set_state_aside(&mut self, why: &str) -> Result<PathBuf, StorageError> {
        let aside = self.make_aside(why)?;
        // From here on the state need not be there.
        self.identity.state_made = false;
        write_identity(&self.path, &mut self.identity)?;
        self.move_aside(STATE, &aside)?;
        sync_directory(&aside)?;
        sync_directory(&self.path)?;
        self.forget_condemnation()?;
        Ok(aside)
    }

    /// Writes down how this node will come back when it gives its log up, before anything is done about that.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn plan_rejoin(&mut self, rejoin: Rejoin) -> Result<(), StorageError> {
        if self.identity.rejoin.as_ref() == Some(&rejoin) {
            return Ok(());
        }
        self.identity.rejoin = Some(rejoin);
        write_identity(&self.path, &mut self.identity)
    }

    /// This node belongs to its cluster again.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn has_rejoined(&mut self) -> Result<(), StorageError> {
        self.identity.rejoin = None;
        write_identity(&self.path, &mut self.identity)
    }

    /// Gives up a log that cannot be read, and the state above it: both are moved into a directory of their own, and this
    /// one becomes that of a new node of the same name, with another incarnation. What was promised here is
    /// forgotten, so the caller must see to it that nobody counts on it. Gives the directory.
    ///
    /// # Errors
    /// [`StorageError::Io`]; whatever was done by then, the log is damaged or missing until all is done, and the call can be
    /// repeated.
    pub fn begin_anew(&mut self, why: &str) -> Result<PathBuf, StorageError> {
        let aside = self.make_aside(why)?;
        self.move_aside(LOG, &aside)?;
        self.move_aside(STATE, &aside)?;
        sync_directory(&aside)?;
        sync_directory(&self.path)?;
        self.forget_condemnation()?;
        self.identity.incarnation = new_incarnation();
        (self.identity.log_made, self.identity.state_made) = (false, false);
        write_identity(&self.path, &mut self.identity)?;
        Ok(aside)
    }

    /// A new directory for what is set aside, with the reason.
    fn make_aside(&self, why: &str) -> Result<PathBuf, StorageError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let aside = (now.as_secs()..)
            .map(|second| self.path.join(format!("damaged-{second}")))
            .find(|place| !place.exists())
            .expect("some name is free");
        make_directory(&aside)?;
        let reason = aside.join("why.txt");
        fs::write(&reason, format!("{why}\n")).map_err(failed("write", &reason))?;
        Ok(aside)
    }

    /// Moves a file or directory, if it is there.
    fn move_aside(&self, name: &str, aside: &Path) -> Result<(), StorageError> {
        let from = self.path.join(name);
        match fs::rename(&from, aside.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("rename", &from)(error)),
            _ => Ok(()),
        }
    }

    fn forget_condemnation(&self) -> Result<(), StorageError> {
        let mark = self.path.join(CONDEMNED);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &mark)(error)),
            _ => sync_directory(&self.path),
        }
    }
}

/// Marks the state of the data directory at `path` as damaged, durably: the next start sets it aside.
pub fn condemn_state(path: &Path, why: &str) -> Result<(), StorageError> {
    let mark = path.join(CONDEMNED);
    let write = || -> io::Result<()> {
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&mark)?;
        out.write_all(why.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()
    };
    write().map_err(failed("write", &mark))?;
    sync_directory(path)
}

/// Makes a directory and its parents and syncs their names; nothing happens if it is there.
fn make_directory(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_directory(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.map_err(failed("create", path))?,
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let file = path.join(LOCK);
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
    let lock = lock.map_err(failed("open", &file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StorageError::Refused(format!(
            "{} is in use by another super-node process: stop that one, or use another --data-dir",
            path.display()
        ))),
        Err(TryLockError::Error(source)) => Err(failed("lock", &file)(source)),
    }
}

/// Gives an empty directory its identity.
fn found(path: &Path, node: &NodeId, cluster: &str) -> Result<Identity, StorageError> {
    let has_log = fs::read_dir(path.join(LOG)).is_ok_and(|mut files| files.next().is_some());
    if has_log || path.join(STATE).exists() {
        return Err(damaged(&path.join(IDENTITY), "the file is missing, but a log or a state is there"));
    }
    let mut identity = Identity {
        format: FORMAT,
        node: node.clone(),
        cluster: cluster.to_string(),
        incarnation: new_incarnation(),
        created_by: Version::current(),
        log_made: false,
        state_made: false,
        rejoin: None,
        checksum: String::new(),
    };
    write_identity(path, &mut identity)?;
    Ok(identity)
}

fn new_incarnation() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Replaces the identity, all or nothing.
fn write_identity(path: &Path, identity: &mut Identity) -> Result<(), StorageError> {
    identity.checksum = identity.sum();
    let text = serde_json::to_string_pretty(identity).expect("plain fields always serialise");
    let (draft, file) = (path.join("identity.json.new"), path.join(IDENTITY));
    let write = || -> io::Result<()> {
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()
    };
    write().map_err(failed("write", &draft))?;
    fs::rename(&draft, &file).map_err(failed("rename", &draft))?;
    sync_directory(path)
}

fn read_identity(path: &Path) -> Result<Option<Identity>, StorageError> {
    /// The one field that every format has.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let file = path.join(IDENTITY);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &file)(error)),
    };
    let unreadable = |error| damaged(&file, format!("not an identity: {error}"));
    let Format { format } = serde_json::from_slice(&text).map_err(unreadable)?;
    if format > FORMAT {
        return Err(StorageError::Refused(format!(
            "{} has directory format {format}, this version reads up to {FORMAT}: upgrade super-node",
            path.display()
        )));
    }
    let identity: Identity = serde_json::from_slice(&text).map_err(unreadable)?;
    let well_formed = identity.incarnation.len() == 32
        && identity.incarnation.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if identity.checksum != identity.sum() || !well_formed {
        return Err(damaged(&file, "its checksum does not fit"));
    }
    Ok(Some(identity))
}
