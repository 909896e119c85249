//! Tests of reloading: which events count, how long to wait after a change, and that a rollback needs no compilation.

use std::sync::atomic::{AtomicUsize, Ordering};

use notify::event::{AccessKind, CreateKind, ModifyKind, RenameMode};
use rstest::rstest;
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;

fn event(kind: EventKind, path: &str) -> Event {
    Event::new(kind).add_path(PathBuf::from(path))
}

#[rstest]
#[case::renamed_over(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/p/a.wasm", true)]
#[case::written(EventKind::Modify(ModifyKind::Any), "/p/m.json", true)]
#[case::made(EventKind::Create(CreateKind::File), "/p/a.wasm", true)]
#[case::read(EventKind::Access(AccessKind::Any), "/p/a.wasm", false)]
#[case::another_file(EventKind::Modify(ModifyKind::Any), "/p/b.wasm", false)]
#[case::same_name_elsewhere(EventKind::Modify(ModifyKind::Any), "/q/a.wasm", false)]
#[case::kubernetes(EventKind::Create(CreateKind::Any), "/p/..data", true)]
fn only_changes_of_the_files_count(#[case] kind: EventKind, #[case] path: &str, #[case] counts: bool) {
    let files = [PathBuf::from("/p/m.json"), PathBuf::from("/p/a.wasm")];
    assert_eq!(is_about(Some(&event(kind, path)), &files), counts);
}

#[test]
fn an_overflow_or_an_error_counts_as_a_change() {
    assert!(is_about(None, &[]) && is_about(Some(&Event::new(EventKind::Other)), &[]));
}

/// Makes `count` changes, `every_ms` apart, and returns the time until `settled` returns.
async fn settles_after(every_ms: u64, count: u64) -> Duration {
    let changed = Arc::new(Notify::new());
    let writer = changed.clone();
    let start = Instant::now();
    tokio::spawn(async move {
        for _ in 0..count {
            writer.notify_one();
            sleep(Duration::from_millis(every_ms)).await;
        }
    });
    settled(&changed).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn settled_waits_for_a_pause_but_at_most_two_seconds() {
    for (every_ms, count, expected_ms) in [(1, 1, 400), (100, 5, 800), (100, 1_000, 2_000)] {
        let took = settles_after(every_ms, count).await.as_millis();
        assert!((expected_ms..expected_ms + 5).contains(&took), "{count} every {every_ms} ms: {took} ms");
    }
}

#[tokio::test]
async fn a_replaced_file_is_noticed_and_another_file_is_not() {
    let folder = TempDir::new().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("m.json"), "1").expect("a file");
    let (watch, changed) = (FileWatch::new().expect("a watcher"), Arc::new(Notify::new()));
    watch.follow("m", &[file("m.json")], changed.clone()).expect("the folder exists");
    std::fs::write(file("other"), "1").expect("a file");
    let noticed = tokio::time::timeout(Duration::from_millis(300), changed.notified()).await;
    assert!(noticed.is_err(), "another file");
    std::fs::write(file("new"), "2").expect("a file");
    std::fs::rename(file("new"), file("m.json")).expect("one folder");
    tokio::time::timeout(Duration::from_secs(10), changed.notified()).await.expect("noticed");
}

#[test]
fn a_missing_folder_is_named_in_the_error() {
    let watch = FileWatch::new().expect("a watcher");
    let error = watch.follow("m", &["/nowhere/m.json".into()], Arc::default()).expect_err("no folder");
    assert!(error.contains("/nowhere"), "{error}");
}

#[test]
fn the_last_two_policies_are_not_compiled_again() {
    let reads = AtomicUsize::new(0);
    let reloader = Reloader::new(Box::new(move || {
        let interval = ["1m", "2m"][reads.fetch_add(1, Ordering::Relaxed) % 2];
        let text = format!(r#"{{"wasm": [{{"path": "x"}}], "config": {{"images": "a", "interval": "{interval}"}}}}"#);
        PluginManifest::parse("m", "m.json", &text, &|_| None).map(PluginManifest::with_embedded)
    }));
    let loads: Vec<Loaded> = (0..4).map(|_| reloader.load().expect("loads").0).collect();
    assert!(Arc::ptr_eq(&loads[0].plugin, &loads[2].plugin) && Arc::ptr_eq(&loads[1].plugin, &loads[3].plugin));
    assert!(!loads[0].is_same(&loads[1].manifest, &loads[1].plugin.info.sha256), "another config is another policy");
    assert_eq!(loads[1].plugin.description.interval_ms, 120_000);
}
