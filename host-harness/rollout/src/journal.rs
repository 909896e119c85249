//! The journal on disk: what labels cannot hold. One file per transaction, written to the disk before the first
//! change and removed after the last. Locked while its transaction's program lives, so that nobody takes a
//! transaction for dead that is at work. The engine decides what happened; everything works without these files.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use imagewatch_abi::ContainerFailure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::label::TransactionLabel;

/// The folder.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "steps that were taken or not, each on its own")]
pub struct JournalEntry {
    /// What the label of the root's new container says, for when that goes when it is stopped.
    #[serde(default)]
    pub facts: Option<TransactionLabel>,
    /// Of those containers that go when they are stopped: how they were.
    pub snapshots: Vec<Snapshot>,
    /// The networks of the old containers, by container id: a start that fails may take them away.
    #[serde(default)]
    pub networks: BTreeMap<String, Value>,
    /// An old container's stop was asked for, and the engine may still be at it.
    #[serde(default)]
    pub is_stopping: bool,
    /// The ids of old containers that were not asked to stop yet, where that of others was asked for.
    #[serde(default)]
    pub untouched: Vec<String>,
    /// The new ones are healthy; what is left is to remove the old ones.
    #[serde(default)]
    pub is_passed: bool,
    /// The commands for afterwards were begun, which is not done twice.
    #[serde(default)]
    pub is_hook_begun: bool,
    /// Why the new ones were given up, once that is known.
    #[serde(default)]
    pub failure: Option<ContainerFailure>,
    /// The old container is back as it was.
    #[serde(default)]
    pub is_restored: bool,
    /// Nothing is left to do but to report the failure, to a policy that has not taken it yet.
    #[serde(default)]
    pub is_over: bool,
}

/// One container as it was, enough to make it again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its inspection.
    pub container: Value,
    /// Its image's inspection.
    pub image: Value,
}

impl Snapshot {
    /// Whether it was created with `--rm`.
    pub fn goes_when_stopped(&self) -> bool {
        self.container["HostConfig"]["AutoRemove"] == true
    }

    /// Its networks, as it was.
    pub fn networks(&self) -> &Value {
        &self.container["NetworkSettings"]["Networks"]
    }
}

/// A transaction's file, and the lock on it until this is dropped.
#[derive(Debug)]
pub struct JournalHandle {
    path: PathBuf,
    _lock: File,
}

/// Whether a transaction is somebody's.
#[derive(Debug)]
pub enum Claim {
    /// Its program is dead; the record is ours now.
    Acquired(JournalHandle, Box<JournalEntry>),
    /// There is no file: only the engine knows.
    Missing,
    /// Its program lives.
    Held,
}

impl Journal {
    /// A journal in `folder`, which is made when it is first needed.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes a transaction down before it begins.
    ///
    /// # Errors
    /// When it cannot be written; the transaction must not begin then.
    pub fn begin(&self, transaction: &str, entry: &JournalEntry) -> io::Result<JournalHandle> {
        // What is in it is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.path(transaction);
        let lock = OpenOptions::new().create(true).append(true).open(path.with_extension("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        let record = JournalHandle { path, _lock: lock };
        record.write(entry)?;
        Ok(record)
    }

    /// Takes over a transaction that a dead program left.
    pub fn claim(&self, transaction: &str) -> Claim {
        let path = self.path(transaction);
        let Ok(lock) = OpenOptions::new().append(true).open(path.with_extension("lock")) else { return Claim::Missing };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Claim::Held,
            Err(TryLockError::Error(_)) => Claim::Missing,
            Ok(()) => {
                // Without a readable entry the labels are all there is, which is enough.
                let entry = read_entry(&path).unwrap_or_default();
                Claim::Acquired(JournalHandle { path, _lock: lock }, Box::new(entry))
            }
        }
    }

    /// The orders for `manifest` of which more is left to do than to report them.
    pub fn open_orders(&self, manifest: &str) -> Vec<String> {
        let entries = self.transactions().into_iter().filter_map(|id| read_entry(&self.path(&id)));
        let open = entries.filter(|entry| !entry.is_over).filter_map(|entry| Some(entry.facts?.origin));
        open.filter(|origin| origin.manifest == manifest).filter_map(|origin| origin.order).collect()
    }

    /// The ids of all transactions that are written down.
    pub fn transactions(&self) -> Vec<String> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|file| file.path());
        let locks = files.filter(|path| path.extension().is_some_and(|end| end == "lock"));
        locks.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect()
    }

    /// Of those the ones of which more is left to do than to report them.
    pub fn unfinished(&self) -> Vec<String> {
        let is_over = |id: &String| read_entry(&self.path(id)).is_some_and(|entry| entry.is_over);
        self.transactions().into_iter().filter(|id| !is_over(id)).collect()
    }

    /// The state folder that it is in.
    pub fn state_folder(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// Tells one state folder from any other on this machine; empty when there is none.
    pub fn owner(&self) -> String {
        fs::metadata(self.state_folder())
            .ok()
            .map(|state| format!("{:x}-{:x}", state.dev(), state.ino()))
            .unwrap_or_default()
    }

    fn path(&self, transaction: &str) -> PathBuf {
        self.folder.join(transaction).with_extension("json")
    }
}

fn read_entry(path: &Path) -> Option<JournalEntry> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl JournalEntry {
    /// What is left to report of it. How containers were, which may hold secrets, is needed no longer.
    #[must_use]
    pub fn over(self) -> Self {
        Self { is_over: true, snapshots: Vec::new(), networks: BTreeMap::new(), ..self }
    }

    /// What is written down of the container of that id.
    pub fn snapshot_of(&self, id: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.container["Id"] == id)
    }
}

impl JournalHandle {
    /// Replaces what is written, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; what was written before stands.
    pub fn write(&self, entry: &JournalEntry) -> io::Result<()> {
        let staged = self.path.with_extension("tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.sync_all()?;
        fs::rename(&staged, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The transaction is over.
    pub fn close(self) {
        // A file that stays is swept up later.
        // Who died while it wrote has left a staged one.
        for path in [self.path.with_extension("tmp"), self.path.clone(), self.path.with_extension("lock")] {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry() -> JournalEntry {
        JournalEntry {
            snapshots: vec![Snapshot { container: json!({ "Id": "1" }), image: json!({}) }],
            ..JournalEntry::default()
        }
    }

    #[test]
    fn a_transaction_is_its_programs_while_that_lives_and_anybodys_after() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let journal = Journal::new(folder.path().join("journal"));
        let record = journal.begin("0a1b2c3d", &entry()).expect("written");
        assert!(matches!(journal.claim("0a1b2c3d"), Claim::Held));
        drop(record);
        let Claim::Acquired(record, found) = journal.claim("0a1b2c3d") else { panic!("its program is gone") };
        assert_eq!(*found, entry());
        record.close();
        assert!(matches!(journal.claim("0a1b2c3d"), Claim::Missing));
    }

    #[test]
    fn of_one_that_is_over_nothing_stays_that_may_hold_secrets() {
        let networks = BTreeMap::from([("1".to_owned(), json!({}))]);
        let over = JournalEntry { networks, is_restored: true, ..entry() }.over();
        assert_eq!(over, JournalEntry { is_over: true, is_restored: true, ..JournalEntry::default() });
    }

    #[test]
    fn nothing_is_left_of_a_transaction_whose_program_died_while_it_wrote() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let journal = Journal::new(folder.path().to_owned());
        drop(journal.begin("0a1b2c3d", &entry()).expect("written"));
        fs::write(folder.path().join("0a1b2c3d.tmp"), "{").expect("torn");
        let Claim::Acquired(record, _) = journal.claim("0a1b2c3d") else { panic!("its program is gone") };
        record.close();
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_journal_that_was_wiped_or_holds_nonsense_is_no_obstacle() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let journal = Journal::new(folder.path().join("journal"));
        assert!(matches!(journal.claim("0a1b2c3d"), Claim::Missing));
        drop(journal.begin("0a1b2c3d", &entry()).expect("written"));
        fs::write(folder.path().join("journal/0a1b2c3d.json"), "{").expect("torn");
        assert!(matches!(journal.claim("0a1b2c3d"), Claim::Acquired(_, found) if *found == JournalEntry::default()));
    }

    #[test]
    fn transactions_are_listed_until_they_are_closed() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let journal = Journal::new(folder.path().to_owned());
        drop(journal.begin("00000001", &entry()).expect("written"));
        journal.begin("00000002", &entry()).expect("written").close();
        assert_eq!(journal.transactions(), ["00000001"]);
    }
}
