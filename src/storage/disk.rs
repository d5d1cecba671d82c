//! The port below the log: a flat directory of files that are written at offsets and synced.
//!
//! Small on purpose, so that the simulator can stand in for it and run the log's own code on a disk that tears,
//! loses and fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A flat directory of files.
///
/// What a crash may do: bytes written and not yet synced are kept, lost or torn, sector by sector; a create, rename
/// or remove that no [`Disk::sync_directory`] followed may be undone. What was synced stays.
pub trait Disk: Send + 'static {
    /// The file's name for people: its path.
    fn locate(&self, name: &str) -> String;

    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The whole content of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Makes an empty file; an error if there is one of that name.
    fn create(&mut self, name: &str) -> io::Result<()>;

    /// Writes all bytes at an offset, growing the file if need be. Bytes never written read as zeros.
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes so many zeros at an offset, to make room for what will be written there.
    fn fill(&mut self, name: &str, offset: u64, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.write(name, offset, &vec![0; bytes])
    }

    /// Makes the file's content and length durable. A failed sync must never be tried again: the system may have
    /// dropped the pages that it could not write, and a second call would report success.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing any file of that name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Bytes that there is still room for; `None` if that cannot be told.
    fn room(&self) -> Option<u64>;

    /// Makes creates, renames and removes durable.
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    /// The directory itself, open for syncing.
    handle: File,
    /// The file that was written last: the log appends to one file for long, and opening it each time costs more
    /// than the write.
    open: Option<(String, File)>,
}

impl RealDisk {
    /// Opens a directory, which must exist.
    pub fn open(directory: &Path) -> io::Result<RealDisk> {
        let handle = File::open(directory)?;
        Ok(RealDisk { directory: directory.to_path_buf(), handle, open: None })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        let cached = matches!(&self.open, Some((open, _)) if open == name);
        if !cached {
            self.open = None;
        }
        let file = match self.open.take() {
            Some((_, file)) => file,
            None => OpenOptions::new().read(true).write(true).open(self.directory.join(name))?,
        };
        Ok(&self.open.insert((name.to_string(), file)).1)
    }

    fn forget(&mut self, name: &str) {
        if matches!(&self.open, Some((open, _)) if open == name) {
            self.open = None;
        }
    }
}

impl Disk for RealDisk {
    fn locate(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.directory.join(name))
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.forget(name);
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(self.directory.join(name))?;
        self.open = Some((name.to_string(), file));
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    /// In small pieces: what is written by one call the system may keep as one large page, of which it would look
    /// through (and count as written) all at each sync of a small record within.
    fn fill(&mut self, name: &str, offset: u64, bytes: u64) -> io::Result<()> {
        const PIECE: u64 = 4 << 10;
        let file = self.file(name)?;
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            // To the end of the page that it begins in.
            let next = (at - at % PIECE + PIECE).min(end);
            let length = usize::try_from(next - at).map_err(|_| io::ErrorKind::FileTooLarge)?;
            file.write_all_at(&[0; PIECE as usize][..length], at)?;
            at = next;
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.forget(name);
        fs::remove_file(self.directory.join(name))
    }

    fn room(&self) -> Option<u64> {
        // What is free for whoever is not root: the rest is kept for the system.
        let found = rustix::fs::fstatvfs(&self.handle).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.handle.sync_all()
    }
}
