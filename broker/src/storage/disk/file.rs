//! Real files. Every blocking call is made on a thread of its own, so that the runtime's thread never waits for a disk.
//!
//! Four threads: one for the log, which is never kept waiting by the others, one for snapshots and removals, one for
//! reads, and one that makes room in memory.
//!
//! What is mapped is read only, and written with ordinary writes before: a full disk is an error there, and not the end of
//! the process. A page that the disk cannot give back any more does end it (SIGBUS).

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use bytes::{Bytes, BytesMut};
use memmap2::{Advice, Mmap, MmapOptions};
use tokio::sync::oneshot;

use super::{Disk, Durability, Extent, FileName, Pending, WriteError};

/// Held while the directory is in use, so that two processes never write one log.
const LOCK_FILE: &str = "lock";
/// Where what is moved out of memory begins its life. It loses its name at once, so that the system frees its room by
/// itself, also when the process is killed.
const SPILL_FILE: &str = "spill";
/// Bytes of one such file: its room is free when nothing of it is kept any more.
const SPILL_FILE_BYTES: usize = 16 << 20;
/// Smaller buffers are written together.
const GATHER_BYTES_MAX: usize = 16 << 10;
/// What the kernel reads in at least.
const PAGE_BYTES: usize = 4 << 10;

/// Real files in one directory.
pub struct FileDisk {
    log: Lane,
    bulk: Lane,
    read: Lane,
    spill: Lane,
}

impl FileDisk {
    /// Opens the directory `path`, making it if needed, and starts the threads. Fails when another process uses it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<FileDisk> {
        let path = path.as_ref();
        fs::create_dir_all(path).map_err(|error| named(path, "cannot be made", &error))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(|error| named(path, "cannot be written to", &error))?;
        lock.try_lock().map_err(|error| {
            let error = io::Error::new(io::ErrorKind::ResourceBusy, error.to_string());
            named(path, "is in use by another process", &error)
        })?;
        let lock = Arc::new(lock);
        // Left by a process that was killed before it could take the name away.
        let _ = fs::remove_file(path.join(SPILL_FILE));
        Ok(FileDisk {
            log: Lane::start("log", path, lock.clone())?,
            bulk: Lane::start("log-bulk", path, lock.clone())?,
            read: Lane::start("log-read", path, lock.clone())?,
            spill: Lane::start("log-spill", path, lock)?,
        })
    }

    /// The thread that writes `file`.
    fn lane(&self, file: FileName) -> &Lane {
        match file {
            FileName::Segment(_) => &self.log,
            FileName::Snapshot(..) | FileName::Partial(..) => &self.bulk,
        }
    }
}

fn named(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("data directory {} {what}: {error}", path.display()))
}

type Job = Box<dyn FnOnce(&mut Files) + Send>;

/// A thread that carries out what it is sent, in order.
struct Lane {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    fn start(name: &str, path: &Path, lock: Arc<File>) -> io::Result<Lane> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let mut files =
            Files { directory: File::open(path)?, path: path.to_owned(), open: None, spilling: None, _lock: lock };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in jobs {
                job(&mut files);
            }
        })?;
        Ok(Lane { jobs: Some(sender), thread: Some(thread) })
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Files) -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + 'static {
        let (reply, replied) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Box::new(move |files| {
                let _ = reply.send(job(files));
            }));
        }
        async move { replied.await.ok() }
    }

    fn pending<T: Send + 'static>(&self, job: impl FnOnce(&mut Files) -> io::Result<T> + Send + 'static) -> Pending<T> {
        let outcome = self.run(job);
        Box::pin(async move { outcome.await.unwrap_or_else(|| Err(stopped())) })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Nothing is lost by a thread that panicked: whoever waited for it has been told.
            let _ = thread.join();
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the disk's thread has stopped")
}

/// What a thread works on.
struct Files {
    path: PathBuf,
    directory: File,
    /// The file used last.
    open: Option<(FileName, File)>,
    spilling: Option<Spilling>,
    _lock: Arc<File>,
}

/// A file that has lost its name, being filled.
struct Spilling {
    file: File,
    map: Bytes,
    filled: usize,
}

impl Spilling {
    fn begin(path: &Path, length: usize) -> io::Result<Spilling> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        fs::remove_file(path)?;
        file.set_len(length as u64)?;
        let map = map(&file, length)?;
        Ok(Spilling { file, map, filled: 0 })
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.map.len() - self.filled >= bytes
    }
}

/// The first `length` bytes of a file, which must have them and must not be cut.
fn map(file: &File, length: usize) -> io::Result<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    if file.metadata()?.len() < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: the file is in a directory that this process has locked. A snapshot is not changed once it has its name; of a
    // file that is being filled, only what was written before is ever looked at, and that is not written again.
    let map: Mmap = unsafe { MmapOptions::new().len(length).map(file)? };
    // Queues are read in the order in which they were written. Where the kernel does not take the advice, it is slower.
    let _ = map.advise(Advice::Sequential);
    Ok(Bytes::from_owner(map))
}

impl Files {
    fn path(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_file_name())
    }

    fn open(&mut self, file: FileName, options: &OpenOptions) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(name, _)| *name != file) {
            let opened = options.open(self.path(file))?;
            self.open = Some((file, opened));
        }
        match &self.open {
            Some((_, opened)) => Ok(opened),
            None => Err(stopped()),
        }
    }

    fn open_to_write(&mut self, file: FileName) -> io::Result<&File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        self.open(file, &options)
    }

    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        let mut list = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Some(file) = entry.file_name().to_str().and_then(FileName::parse) {
                list.push((file, entry.metadata()?.len()));
            }
        }
        list.sort_unstable();
        Ok(list)
    }

    fn read(&mut self, extents: &[Extent]) -> io::Result<Vec<Bytes>> {
        // A name may have been given to another file since.
        self.open = None;
        let mut options = OpenOptions::new();
        options.read(true);
        let mut read = Vec::with_capacity(extents.len());
        for extent in extents {
            let mut bytes = BytesMut::zeroed(extent.length);
            self.open(extent.file, &options)?.read_exact_at(&mut bytes, extent.offset)?;
            read.push(bytes.freeze());
        }
        Ok(read)
    }

    fn write(
        &mut self,
        file: FileName,
        mut offset: u64,
        buffers: &[Bytes],
        durability: Durability,
    ) -> Result<(), WriteError> {
        let opened = self.open_to_write(file).map_err(WriteError::Write)?;
        let mut rest = buffers;
        while let Some(first) = rest.first() {
            let small = rest.iter().take_while(|buffer| buffer.len() < GATHER_BYTES_MAX).count();
            let written = if small > 1 {
                let gathered = rest[..small].concat();
                opened.write_all_at(&gathered, offset).map(|()| (small, gathered.len()))
            } else {
                opened.write_all_at(first, offset).map(|()| (1, first.len()))
            };
            let (count, bytes) = written.map_err(WriteError::Write)?;
            rest = &rest[count..];
            offset += bytes as u64;
        }
        if durability != Durability::None {
            opened.sync_data().map_err(WriteError::Sync)?;
        }
        if durability == Durability::DataAndName {
            self.directory.sync_all().map_err(WriteError::Sync)?;
        }
        Ok(())
    }

    fn map(&self, file: FileName, length: u64) -> io::Result<Bytes> {
        map(&File::open(self.path(file))?, length as usize)
    }

    fn spill(&mut self, pieces: &[Bytes]) -> io::Result<Vec<Bytes>> {
        let gathered = pieces.concat();
        if self.spilling.as_ref().is_none_or(|spilling| !spilling.has_room(gathered.len())) {
            self.spilling = None;
            let length = gathered.len().max(SPILL_FILE_BYTES);
            self.spilling = Some(Spilling::begin(&self.path.join(SPILL_FILE), length)?);
        }
        let Some(spilling) = &mut self.spilling else { return Err(stopped()) };
        let mut at = spilling.filled;
        spilling.file.write_all_at(&gathered, at as u64)?;
        spilling.filled += gathered.len();
        let spilt = pieces.iter().map(|piece| {
            let from = at;
            at += piece.len();
            spilling.map.slice(from..at)
        });
        Ok(spilt.collect())
    }

    fn truncate(&mut self, file: FileName, length: u64) -> io::Result<()> {
        let opened = self.open_to_write(file)?;
        opened.set_len(length)?;
        opened.sync_all()
    }

    fn rename(&mut self, from: FileName, to: FileName) -> io::Result<()> {
        self.open = None;
        fs::rename(self.path(from), self.path(to))?;
        self.directory.sync_all()
    }

    fn remove(&mut self, file: FileName) -> io::Result<()> {
        self.open = None;
        match fs::remove_file(self.path(file)) {
            Ok(()) => self.directory.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Disk for FileDisk {
    fn list(&self) -> Pending<Vec<(FileName, u64)>> {
        self.read.pending(|files| files.list())
    }

    fn read(&self, extents: Vec<Extent>) -> Pending<Vec<Bytes>> {
        self.read.pending(move |files| files.read(&extents))
    }

    fn map(&self, file: FileName, length: u64) -> Pending<Bytes> {
        self.read.pending(move |files| files.map(file, length))
    }

    fn spill(&self, pieces: Vec<Bytes>) -> Pending<Vec<Bytes>> {
        self.spill.pending(move |files| files.spill(&pieces))
    }

    fn touch(&self, pieces: Vec<Bytes>) -> Pending<()> {
        self.read.pending(move |_| {
            for piece in pieces {
                for page in piece.chunks(PAGE_BYTES) {
                    black_box(page[0]);
                }
                black_box(piece.last());
            }
            Ok(())
        })
    }

    fn write(
        &self,
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        durability: Durability,
    ) -> Pin<Box<dyn Future<Output = Result<(), WriteError>>>> {
        let written = self.lane(file).run(move |files| files.write(file, offset, &buffers, durability));
        Box::pin(async move { written.await.unwrap_or_else(|| Err(WriteError::Sync(stopped()))) })
    }

    fn truncate(&self, file: FileName, length: u64) -> Pending<()> {
        self.lane(file).pending(move |files| files.truncate(file, length))
    }

    fn rename(&self, from: FileName, to: FileName) -> Pending<()> {
        self.bulk.pending(move |files| files.rename(from, to))
    }

    fn remove(&self, file: FileName) -> Pending<()> {
        // Freeing a segment takes long; only the oldest is removed, or one that nothing was written to. The log's thread
        // forgets it first, in case that number is written again.
        let forgotten = self.lane(file).run(|files| files.open = None);
        let removed = self.bulk.pending(move |files| files.remove(file));
        Box::pin(async move {
            let _ = forgotten.await;
            removed.await
        })
    }
}
