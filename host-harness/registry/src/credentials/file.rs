//! Small local files that are read again when they change.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

/// The maximum size of a file: 1 MiB, about a hundred times the size of a large real file.
const MAX_BYTES: u64 = 1024 * 1024;

/// The reason if a required file is missing.
pub(super) const NO_FILE: &str = "the file does not exist, or this user may not read it";

/// A file and the result of parsing it. The file is local and small, so reading blocks the caller.
#[derive(Debug)]
pub(super) struct WatchedFile<T> {
    path: PathBuf,
    cached: Mutex<Option<(Stamp, Arc<T>)>>,
}

/// Identifies one version of a file. If a secret is deployed by replacing a link, the inode changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl<T> WatchedFile<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, cached: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Parses the file, or returns the cached result if the file did not change. Returns `None` if the file does not
    /// exist or this user may not access it. Any other failure returns the system's message.
    pub(super) fn read(&self, parse: impl FnOnce(&[u8]) -> T) -> Result<Option<Arc<T>>, String> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(error.kind()) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let stamp = Stamp::of(&metadata);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, parsed)) = &*cached
            && *known == stamp
        {
            return Ok(Some(parsed.clone()));
        }
        let parsed = Arc::new(parse(&read_small(&self.path, &metadata)?));
        *cached = Some((stamp, parsed.clone()));
        Ok(Some(parsed))
    }
}

/// Whether an error counts as a missing file. A denied permission counts too: a service often has no access to the home
/// folder that its environment names.
fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied)
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads the file at `path`. Fails if it is not a regular file or has more than 1 MiB. Dropping the result overwrites
/// it.
pub(super) fn read_small(path: &Path, metadata: &Metadata) -> Result<Zeroizing<Vec<u8>>, String> {
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    // The capacity suffices from the beginning. A buffer that grows leaves a copy of the secret in memory.
    let capacity = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_only_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let file = WatchedFile::new(path.clone());
        let mut parsed = 0;
        let mut read = || {
            file.read(|bytes| {
                parsed += 1;
                (parsed, bytes.to_vec())
            })
            .map(|parsed| parsed.map(|parsed| (*parsed).clone()))
        };
        assert_eq!(read(), Ok(None));
        fs::write(&path, "one").unwrap();
        assert_eq!(read(), Ok(Some((1, b"one".to_vec()))));
        assert_eq!(read(), Ok(Some((1, b"one".to_vec()))));
        fs::write(folder.path().join("next"), "two").unwrap();
        fs::rename(folder.path().join("next"), &path).unwrap();
        assert_eq!(read(), Ok(Some((2, b"two".to_vec()))), "a different file of the same length");
        fs::remove_file(&path).unwrap();
        assert_eq!(read(), Ok(None));
        fs::create_dir(&path).unwrap();
        assert_eq!(read(), Err("it is not a file".to_owned()));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
        assert_eq!(read(), Err("it has more than 1048576 bytes".to_owned()));
    }
}
