//! Small local files that are read anew when they changed. Understands none of them.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

/// A hundred times the largest that anybody has.
const MAX_BYTES: u64 = 1024 * 1024;

/// Where a file must be and is not.
pub(super) const NO_FILE: &str = "there is no such file that this user may see";

/// A file, and what was last made of it. Local and small, so it is read on the spot.
#[derive(Debug)]
pub(super) struct WatchedFile<T> {
    path: PathBuf,
    kept: Mutex<Option<(Stamp, Arc<T>)>>,
}

/// What tells one state of a file from another: a secret that is deployed by swapping a link has another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl<T> WatchedFile<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, kept: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What `parse` makes of the file, which it is only asked when the file changed. `None` where there is no file
    /// that this user may see; the error says what the system said.
    pub(super) fn read(&self, parse: impl FnOnce(&[u8]) -> T) -> Result<Option<Arc<T>>, String> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(error.kind()) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let stamp = Stamp::of(&metadata);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, made)) = &*kept
            && *known == stamp
        {
            return Ok(Some(made.clone()));
        }
        let made = Arc::new(parse(&read_small(&self.path, &metadata)?));
        *kept = Some((stamp, made.clone()));
        Ok(Some(made))
    }
}

/// Services are often kept out of the home folders that their environment still names.
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

/// Reads the file at `path`, unless it is none or has more than a megabyte. What was read is overwritten when it is dropped.
pub(super) fn read_small(path: &Path, metadata: &Metadata) -> Result<Zeroizing<Vec<u8>>, String> {
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    // Large enough from the beginning: a buffer that grows leaves a copy of what it held.
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
    fn a_file_is_read_anew_when_it_changed_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let file = WatchedFile::new(path.clone());
        let mut parsed = 0;
        let mut read = || {
            file.read(|bytes| {
                parsed += 1;
                (parsed, bytes.to_vec())
            })
            .map(|made| made.map(|made| (*made).clone()))
        };
        assert_eq!(read(), Ok(None));
        fs::write(&path, "one").unwrap();
        assert_eq!(read(), Ok(Some((1, b"one".to_vec()))));
        assert_eq!(read(), Ok(Some((1, b"one".to_vec()))));
        fs::write(folder.path().join("next"), "two").unwrap();
        fs::rename(folder.path().join("next"), &path).unwrap();
        assert_eq!(read(), Ok(Some((2, b"two".to_vec()))), "same length, other file");
        fs::remove_file(&path).unwrap();
        assert_eq!(read(), Ok(None));
        fs::create_dir(&path).unwrap();
        assert_eq!(read(), Err("it is no file".to_owned()));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
        assert_eq!(read(), Err("it has more than 1048576 bytes".to_owned()));
    }
}
