//! Tests of the public functions of the store, and of database files in various states.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use imagewatch_abi::{Outcome, Verdict};
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;

use super::sample::quarantined;
use imagewatch_rollout::image_records::ImageRecords;

use super::*;

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

fn open(folder: &TempDir) -> Store {
    Store::open(folder.path()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(folder: &Path) -> String {
    Store::open(folder).expect_err("it cannot be used").to_string()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_new_folder_and_its_file_belong_to_the_owner_only() {
    let folder = folder();
    let state = folder.path().join("a/b");
    Store::open(&state).expect("it is created");
    let mode = fs::metadata(&state).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mode = fs::metadata(state.join(FILE_NAME)).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn data_survives_a_kill_and_reopening() {
    let folder = folder();
    let store = open(&folder);
    store.change_quarantine("apps", &[], &[quarantined("web", "b", 1)]).expect("written");
    store.keep_image_config("sha256:1", &json!({"Cmd": ["run"]})).expect("written");
    store.record_previous_image("r.io/app", "sha256:1", 1).expect("written");
    // Simulates a kill: the store is not closed, and its log is not merged into the database.
    std::mem::forget(store);
    let store = open(&folder);
    assert_eq!(store.quarantine("apps").expect("read"), [quarantined("web", "b", 1)]);
    assert_eq!(store.image_config("sha256:1").expect("read"), Some(json!({"Cmd": ["run"]})));
    assert_eq!(store.previous_images("r.io/app").expect("read"), ["sha256:1"]);
}

#[test]
fn an_empty_file_and_a_version_1_file_are_migrated() {
    let folder = folder();
    fs::write(folder.path().join(FILE_NAME), "").expect("a file");
    assert_eq!(open(&folder).quarantine("apps").expect("read"), []);

    let folder = self::folder();
    let old = Connection::open(folder.path().join(FILE_NAME)).expect("a database");
    let entry = serde_json::to_string(&quarantined("web", "b", 3)).expect("JSON");
    old.execute_batch(&format!(
        "CREATE TABLE quarantine (manifest TEXT NOT NULL, target TEXT NOT NULL, digest TEXT NOT NULL,
            entry TEXT NOT NULL, PRIMARY KEY (manifest, target, digest)) STRICT, WITHOUT ROWID;
        INSERT INTO quarantine VALUES ('apps', 'web', 'sha256:{}', '{entry}');
        PRAGMA user_version = 1;",
        "b".repeat(64)
    ))
    .expect("version 1");
    drop(old);
    let store = open(&folder);
    assert_eq!(store.quarantine("apps").expect("read"), [quarantined("web", "b", 3)]);
    assert_eq!(store.previous_images("r.io/app").expect("the table exists"), Vec::<String>::new());
    drop(store);
    assert_eq!(open(&folder).quarantine("apps").expect("read again"), [quarantined("web", "b", 3)]);
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_unchanged() {
    let folder = folder();
    drop(open(&folder));
    let file = folder.path().join(FILE_NAME);
    let newer = Connection::open(&file).expect("a database");
    newer.pragma_update(None, "user_version", 99).expect("written");
    drop(newer);
    let error = refused(folder.path());
    assert!(error.contains("schema 99") && error.contains(FILE_NAME) && error.contains("move the file"), "{error}");
}

#[rstest]
#[case::no_database(0, b"this is a text file, and a long one at that")]
#[case::damaged_pages(4096, &[0xA5; 4096])]
fn a_damaged_file_is_named_with_advice(#[case] offset: usize, #[case] garbage: &[u8]) {
    let folder = folder();
    let store = open(&folder);
    store.change_quarantine("apps", &[], &[quarantined("web", "b", 1)]).expect("written");
    drop(store);
    let file = folder.path().join(FILE_NAME);
    let mut bytes = fs::read(&file).expect("closing merged the log into the database");
    bytes.splice(offset..offset + garbage.len(), garbage.iter().copied());
    fs::write(&file, bytes).expect("written");
    let error = refused(folder.path());
    assert!(error.contains(&file.display().to_string()) && error.contains("move it away"), "{error}");
}

#[test]
fn an_unreadable_entry_is_reported_as_damage() {
    let folder = folder();
    let store = open(&folder);
    store.lock().execute("INSERT INTO quarantine VALUES ('apps', 'web', 'd', '{}')", []).expect("written");
    let error = store.quarantine("apps").expect_err("it is no entry");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_file_instead_of_a_folder_is_named_in_the_error() {
    let folder = folder();
    let file = folder.path().join("state");
    fs::write(&file, "").expect("a file");
    let error = refused(&file);
    assert!(error.contains(&file.display().to_string()) && error.contains("--state-dir"), "{error}");
}

#[test]
fn a_refused_write_names_the_file_and_changes_nothing() {
    let folder = folder();
    let store = open(&folder);
    store.change_quarantine("apps", &[], &[quarantined("web", "b", 1)]).expect("written");
    store.set_read_only(true);
    let error = store.clear_quarantine(None, &[]).expect_err("refused").to_string();
    assert!(error.contains(FILE_NAME) && error.contains("free space"), "{error}");
    assert_eq!(store.quarantine("apps").expect("read").len(), 1);
}

#[test]
fn a_full_disk_is_reported_and_stored_data_stays() {
    let folder = folder();
    let store = open(&folder);
    store.keep_policy_state("apps", &json!({"seen": "old"})).expect("written");
    store.fill_up();
    let error = store.keep_policy_state("apps", &json!({"seen": "x".repeat(1 << 20)})).expect_err("the disk is full");
    assert!(error.is_disk_full() && error.to_string().contains("free space"), "{error}");
    drop(store);
    assert_eq!(open(&folder).policy_state("apps").expect("read"), Some(json!({"seen": "old"})));
}

/// Copies the files that a store leaves on the disk when it is closed (`is_closed`) or killed. The copy lacks the file
/// that processes share (`-shm`).
fn left_by(store: Store, from: &TempDir, is_closed: bool) -> TempDir {
    if is_closed {
        drop(store);
    } else {
        std::mem::forget(store);
    }
    let left = folder();
    for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal")] {
        let file = from.path().join(&name);
        if file.exists() {
            fs::copy(file, left.path().join(name)).expect("copied");
        }
    }
    left
}

fn files(folder: &TempDir) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("a file"));
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).expect("read"))).collect();
    files.sort();
    files
}

#[rstest]
#[case::closed(true)]
#[case::killed(false)]
fn copy_to_memory_reads_a_file_without_changing_it(#[case] is_closed: bool) {
    let first = folder();
    let store = open(&first);
    store.change_quarantine("apps", &[], &[quarantined("web", "b", 1)]).expect("written");
    store.keep_policy_state("apps", &json!({"seen": "old"})).expect("written");
    store.record_history("apps", &[&outcome("web", Verdict::Held)], 7).expect("written");
    let left = left_by(store, &first, is_closed);
    let before = files(&left);
    assert_eq!(before.len(), if is_closed { 1 } else { 2 }, "a killed store leaves its log");

    let copy = Store::copy_to_memory(left.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(copy.quarantine("apps").expect("read"), [quarantined("web", "b", 1)]);
    assert_eq!(copy.policy_state("apps").expect("read"), Some(json!({"seen": "old"})));
    assert_eq!(listed(&copy, None, None, 9), [(7, "web".to_owned(), Verdict::Held)]);
    copy.keep_policy_state("apps", &json!({"seen": "new"})).expect("written to memory");
    assert_eq!(copy.policy_state("apps").expect("read"), Some(json!({"seen": "new"})));
    drop(copy);
    assert_eq!(files(&left), before, "no file is written or created");
}

#[test]
fn copy_to_memory_fails_on_missing_and_damaged_files() {
    let folder = folder();
    Store::copy_to_memory(folder.path()).expect_err("the file does not exist");
    assert_eq!(files(&folder), []);
    fs::write(folder.path().join(FILE_NAME), "this is a text file, and a long one at that").expect("a file");
    let error = Store::copy_to_memory(folder.path()).expect_err("not a database");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

fn outcome(target: &str, verdict: Verdict) -> Outcome {
    Outcome { reason: Some("why".to_owned()), ..Outcome::new(target, verdict) }
}

fn listed(store: &Store, manifest: Option<&str>, target: Option<&str>, limit: u32) -> Vec<(u64, String, Verdict)> {
    let query = HistoryQuery { manifest: manifest.map(str::to_owned), target: target.map(str::to_owned), limit };
    let entries = store.history(&query).expect("read");
    entries.into_iter().map(|entry| (entry.at_ms, entry.outcome.target, entry.outcome.verdict)).collect()
}

#[test]
fn history_is_newest_first_and_skips_repeated_outcomes() {
    let store = Store::in_memory();
    let record = |manifest: &str, target: &str, verdict, at_ms| {
        store.record_history(manifest, &[&outcome(target, verdict)], at_ms).expect("written");
    };
    record("apps", "web", Verdict::Seeded, 1);
    record("apps", "web", Verdict::Held, 2);
    record("apps", "db", Verdict::Moved, 3);
    record("apps", "web", Verdict::Held, 4);
    record("more", "web", Verdict::Held, 5);
    record("apps", "web", Verdict::Moved, 6);
    record("apps", "web", Verdict::Held, 7);
    let web = |at_ms, verdict| (at_ms, "web".to_owned(), verdict);
    assert_eq!(
        listed(&store, Some("apps"), Some("web"), 9),
        [web(7, Verdict::Held), web(6, Verdict::Moved), web(2, Verdict::Held), web(1, Verdict::Seeded)]
    );
    assert_eq!(
        listed(&store, None, Some("web"), 3),
        [web(7, Verdict::Held), web(6, Verdict::Moved), web(5, Verdict::Held)]
    );
    assert_eq!(listed(&store, None, None, 99).len(), 6);
}

#[test]
fn history_is_limited_and_drops_the_oldest_events() {
    let store = Store::in_memory();
    let outcomes: Vec<Outcome> = (0..10_050).map(|n| outcome(&format!("t{n}"), Verdict::Seeded)).collect();
    store.record_history("apps", &outcomes.iter().collect::<Vec<_>>(), 1).expect("written");
    let kept = listed(&store, None, None, u32::MAX);
    assert_eq!(kept.len(), 10_000);
    assert_eq!((&*kept[0].1, &*kept[9_999].1), ("t10049", "t50"));
}

#[test]
fn the_history_limit_applies_to_each_manifest_separately() {
    let store = Store::in_memory();
    let record = |manifest: &str, target: &str, at_ms| {
        store.record_history(manifest, &[&outcome(target, Verdict::Seeded)], at_ms).expect("written");
    };
    record("quiet", "web", 1);
    let outcomes: Vec<Outcome> = (0..10_050).map(|n| outcome(&format!("t{n}"), Verdict::Seeded)).collect();
    store.record_history("noisy", &outcomes.iter().collect::<Vec<_>>(), 2).expect("written");
    record("noisy", "last", 3);
    assert_eq!(listed(&store, Some("quiet"), None, 9), [(1, "web".to_owned(), Verdict::Seeded)]);
    let kept = listed(&store, Some("noisy"), None, u32::MAX);
    assert_eq!((kept.len(), &*kept[0].1, &*kept[9_999].1), (10_000, "last", "t51"));
}

#[test]
fn the_size_of_an_event_is_limited() {
    let store = Store::in_memory();
    let wordy = Outcome { reason: Some("ä".repeat(1_000_000)), ..outcome("wordy", Verdict::Held) };
    let nameless = outcome(&"x".repeat(1_000_000), Verdict::Seeded);
    store.record_history("apps", &[&wordy, &nameless], 1).expect("written");
    let kept = store.history(&HistoryQuery { limit: 10, ..HistoryQuery::default() }).expect("read");
    let [entry] = &kept[..] else { panic!("{} entries", kept.len()) };
    assert_eq!(entry.outcome.reason.as_ref().map(|reason| reason.chars().count()), Some(1_000));
}

#[test]
fn policy_state_is_stored_per_manifest_and_overwritten() {
    let store = Store::in_memory();
    assert_eq!(store.policy_state("apps").expect("read"), None);
    for state in [json!({"version": 1}), json!(null), json!({"version": 2})] {
        store.keep_policy_state("apps", &state).expect("written");
        assert_eq!(store.policy_state("apps").expect("read"), Some(state));
    }
    assert_eq!(store.policy_state("more").expect("read"), None);
    assert!(
        store.forget_policy_state("apps").expect("written") && !store.forget_policy_state("apps").expect("written")
    );
    assert_eq!(store.policy_state("apps").expect("read"), None);
}

#[test]
fn change_quarantine_writes_only_the_difference() {
    let folder = folder();
    let (here, there) = (open(&folder), open(&folder));
    let before = ["a", "b", "c", "d"].map(|target| quarantined(target, "b", 1));
    here.change_quarantine("apps", &[], &before).expect("written");
    there.clear_quarantine(Some("apps"), &owned(&["a", "b"])).expect("written");
    // `a` and `d` did not change, `b` failed again, `c` was removed, and `e` is new.
    let after = [("a", 1), ("b", 2), ("d", 1), ("e", 1)].map(|(target, count)| quarantined(target, "b", count));
    here.change_quarantine("apps", &before, &after).expect("written");
    let now = there.quarantine("apps").expect("read");
    assert_eq!(now, [quarantined("b", "b", 2), quarantined("d", "b", 1), quarantined("e", "b", 1)]);
}

#[rstest]
#[case::all(None, &[], &["apps/db", "apps/web", "more/web"])]
#[case::one_target_everywhere(None, &["web"], &["apps/web", "more/web"])]
#[case::one_target_of_one_manifest(Some("more"), &["web", "db"], &["more/web"])]
#[case::one_manifest(Some("apps"), &[], &["apps/db", "apps/web"])]
#[case::nobody(None, &["nobody"], &[])]
fn clear_quarantine_selects_by_manifest_and_target(
    #[case] manifest: Option<&str>,
    #[case] targets: &[&str],
    #[case] expected: &[&str],
) {
    let store = Store::in_memory();
    let names = |list: &[(String, imagewatch_abi::Quarantined)]| {
        list.iter().map(|(manifest, entry)| format!("{manifest}/{}", entry.target)).collect::<Vec<String>>()
    };
    store.change_quarantine("more", &[], &[quarantined("web", "b", 1)]).expect("written");
    store.change_quarantine("apps", &[], &["web", "db"].map(|target| quarantined(target, "b", 1))).expect("written");
    let all = names(&store.all_quarantined().expect("read"));
    assert_eq!(all, ["apps/db", "apps/web", "more/web"]);
    let cleared = store.clear_quarantine(manifest, &owned(targets)).expect("written");
    assert_eq!(names(&cleared), expected);
    let left: Vec<String> = all.into_iter().filter(|name| !expected.contains(&name.as_str())).collect();
    assert_eq!(names(&store.all_quarantined().expect("read")), left);
}

#[test]
fn previous_images_are_newest_first_and_can_be_deleted() {
    let store = Store::in_memory();
    for (repository, id, at_ms) in
        [("app", "1", 10), ("app", "2", 20), ("app", "1", 30), ("app", "2", 5), ("db", "2", 1)]
    {
        store.record_previous_image(repository, id, at_ms).expect("written");
    }
    assert_eq!(store.previous_images("app").expect("read"), ["1", "2"]);
    store.forget_previous_image("2").expect("written");
    assert_eq!(store.previous_images("app").expect("read"), ["1"]);
    assert_eq!(store.previous_images("db").expect("read"), Vec::<String>::new());
}

#[test]
fn an_image_config_is_overwritten() {
    let store = Store::in_memory();
    assert_eq!(store.image_config("1").expect("read"), None);
    for config in [json!({"Env": ["A=1"]}), json!({"Env": ["A=2"]})] {
        store.keep_image_config("1", &config).expect("written");
        assert_eq!(store.image_config("1").expect("read"), Some(config));
    }
}

#[test]
fn s14_an_impossible_schema_number_is_reported_as_damage() {
    for number in [-1, i32::MIN] {
        let folder = TempDir::new().expect("a folder");
        drop(Store::open(folder.path()).expect("a store"));
        let connection = Connection::open(folder.path().join(FILE_NAME)).expect("a database");
        connection.pragma_update(None, "user_version", number).expect("a setting of the file");
        drop(connection);
        let error = Store::open(folder.path()).expect_err("no version writes this number");
        assert!(
            matches!(error, StoreError::Damaged { .. }) && error.to_string().contains(&number.to_string()),
            "{error}"
        );
    }
}
