//! The updater updates itself (T40): a machine on which containers are programs. Each running updater and helper works
//! as the real one does, is dead as soon as its container is stopped, and is started again as its restart policy says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rstest::rstest;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::stage::Stage;
use super::*;
use crate::handover::other_updater;
use imagewatch_engine::testing::Interruption;

/// Long after the last patience of anybody has run out.
const IN_ORDER_TIMEOUT: Duration = Duration::from_mins(30);
const TICK: Duration = Duration::from_millis(50);
/// Nobody runs for so long: then an operator starts somebody.
const NOTICED_AFTER: Duration = Duration::from_secs(30);

/// Who dies, and what the engine makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The program that asked, which its restart policy brings back.
    Crash,
    /// The program that asked, for good; the operator starts the old one if nobody runs.
    Kill,
    /// All of them: the engine itself is started again.
    Everybody,
}

struct Machine {
    stage: Stage,
    /// Whether updater and successor may be seen side by side.
    is_handover: bool,
    programs: BTreeMap<String, JoinHandle<i64>>,
    /// Somebody knows that the image is bad.
    is_barred: Arc<AtomicBool>,
    before: BTreeMap<String, Value>,
}

impl Machine {
    /// An updater `web`; with a published port, or without.
    async fn new(new: Value, has_port: bool) -> Self {
        let mut host = json!({ "NetworkMode": "front", "RestartPolicy": { "Name": "always" } });
        if has_port {
            host["PortBindings"] = json!({ "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] });
        }
        let labels = json!({ "imagewatch.updater": "true", "imagewatch.stable-for": "1s" });
        let stage = Stage::of(json!({ "HostConfig": host, "Labels": labels }), new, true).await;
        let own = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
        let state = stage.state_folder();
        stage.engine.edit(&own, |c| {
            c["HostConfig"]["Binds"] = json!([format!("state:{state}")]);
            c["Mounts"] = json!([{ "Type": "volume", "Name": "state", "Destination": state, "RW": true }]);
        });
        stage.engine.add_image("example.com/stranger:1", &json!({ "Id": "strange" }));
        let always = json!({ "HostConfig": { "RestartPolicy": { "Name": "always" } } });
        stage.engine.add_container("stranger", "example.com/stranger:1", always, true).await;
        let before = stage.picture();
        Self { stage, is_handover: !has_port, programs: BTreeMap::new(), is_barred: Arc::default(), before }
    }

    /// Starts the programs of running containers, ends those of others, and does what restart policies say.
    fn keep_up(&mut self) {
        let now = self.stage.engine.inspections();
        let is_up = |c: &Value| c["State"]["Running"] == true;
        let updaters: Vec<&String> =
            now.iter().filter(|(_, c)| is_up(c) && is_updater(c)).map(|(name, _)| name).collect();
        assert!(updaters.len() <= 1 + usize::from(self.is_handover), "two updaters: {updaters:?}\n{:#?}", self.calls());
        self.programs.retain(|id, program| {
            let lives = now.values().any(|c| c["Id"] == id.as_str() && is_up(c));
            if !lives {
                program.abort();
            }
            lives
        });
        for container in now.values().filter(|c| is_up(c) && (is_updater(c) || is_helper(c))) {
            let id = container["Id"].as_str().unwrap();
            match self.programs.get_mut(id) {
                None => {
                    let program = self.program_of(container);
                    self.programs.insert(id.to_owned(), program);
                }
                Some(program) if program.is_finished() => {
                    let code = futures_util::FutureExt::now_or_never(program).unwrap().unwrap();
                    self.programs.remove(id);
                    self.exit(id, code);
                }
                Some(_) => {}
            }
        }
    }

    fn program_of(&self, container: &Value) -> JoinHandle<i64> {
        let mut stage = Stage::sharing(&self.stage);
        stage.rollout.own_id = container["Id"].as_str().map(str::to_owned);
        let (is_outdated, is_barred) = (container["Image"] == "old", self.is_barred.clone());
        tokio::spawn(async move { run_program(&stage, is_outdated, &is_barred).await })
    }

    /// A program ended by itself, or by a signal that no restart policy knows of.
    fn exit(&self, id: &str, code: i64) {
        self.stage.engine.edit(id, |c| {
            let policy = c["HostConfig"]["RestartPolicy"]["Name"].as_str().unwrap_or_default();
            let comes_back = policy == "always" || (policy == "on-failure" && code != 0);
            c["State"] = json!({ "Running": comes_back, "Status": if comes_back { "running" } else { "exited" }, "ExitCode": code });
            c["RestartCount"] = json!(c["RestartCount"].as_u64().unwrap_or(0) + u64::from(comes_back));
        });
    }

    fn is_in_order(&self) -> bool {
        let now = self.stage.picture();
        now.keys().eq(self.before.keys()) && now["web"]["running"] == true && self.stage.journal_files() == 0
    }

    /// Runs until all is in order, and some time more.
    async fn settle(&mut self, case: &str) {
        let until = Instant::now() + IN_ORDER_TIMEOUT;
        let mut in_order_since = None;
        let mut none_since = None;
        while in_order_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(5)) {
            self.keep_up();
            sleep(Duration::from_millis(200)).await;
            self.stage.engine.let_time_pass();
            in_order_since = self.is_in_order().then(|| in_order_since.unwrap_or_else(Instant::now));
            none_since = self.programs.is_empty().then(|| none_since.unwrap_or_else(Instant::now));
            if none_since.is_some_and(|since| since.elapsed() > NOTICED_AFTER) {
                self.start_somebody();
            }
            let overview = || self.stage.engine.overview();
            assert!(
                Instant::now() < until,
                "{case}: {:?}, journal {}\n{:#?}",
                overview(),
                self.stage.journal_files(),
                self.calls()
            );
        }
        let now = self.stage.picture();
        for (name, was) in &self.before {
            for field in ["running", "policy", "networks", "mounts"] {
                assert_eq!(now[name][field], was[field], "{case}: {field} of {name}\n{:#?}", self.calls());
            }
        }
        assert_eq!(now["stranger"], self.before["stranger"], "{case}");
    }

    fn start_somebody(&self) {
        let all = self.stage.engine.inspections();
        let old = all.values().find(|c| is_updater(c) && c["Image"] == "old");
        let somebody = old.or_else(|| all.values().find(|c| is_updater(c))).expect("an updater is left");
        self.stage.engine.edit(somebody["Id"].as_str().unwrap(), |c| {
            c["State"] = json!({ "Running": true, "Status": "running", "ExitCode": 0 });
        });
    }

    /// Runs until somebody dies at the `nth` call; whether anybody did.
    async fn run_until_death(&mut self, nth: usize, interruption: Interruption) -> bool {
        self.stage.engine.interrupt(nth, interruption);
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            self.keep_up();
            tokio::select! {
                biased;
                () = self.stage.engine.death() => return true,
                () = sleep(TICK) => {}
            }
        }
        false
    }

    fn die(&mut self, death: Death, is_helpers: bool) {
        for program in std::mem::take(&mut self.programs).into_values() {
            program.abort();
        }
        self.stage.engine.revive();
        if death == Death::Everybody {
            return self.stage.engine.restart_daemon();
        }
        let all = self.stage.engine.inspections();
        // The others' programs are begun anew as well, which they do not notice.
        let Some(dead) = all
            .values()
            .find(|c| c["State"]["Running"] == true && if is_helpers { is_helper(c) } else { is_updater(c) })
        else {
            return;
        };
        let id = dead["Id"].as_str().unwrap();
        if death == Death::Crash {
            self.exit(id, 137);
        } else {
            self.stage
                .engine
                .edit(id, |c| c["State"] = json!({ "Running": false, "Status": "exited", "ExitCode": 137 }));
        }
    }

    fn calls(&self) -> Vec<String> {
        self.stage.engine.calls().into_iter().take(60).collect()
    }
}

#[tokio::test]
async fn f10_a_second_updater_is_seen_in_whatever_words_it_says_so() {
    for (value, is_one) in [
        ("true", true),
        ("True", true),
        ("1", true),
        ("maybe", true),
        ("false", false),
        ("False", false),
        ("0", false),
        ("no", false),
    ] {
        let engine = MemoryEngine::new();
        engine.add_image("example.com/iw:1", &json!({ "Id": "iw" }));
        engine.add_container("other", "example.com/iw:1", json!({}), true).await;
        let id = engine.inspections()["other"]["Id"].as_str().unwrap().to_owned();
        engine.edit(&id, |c| c["Config"]["Labels"] = json!({ "imagewatch.updater": value }));
        let other = other_updater(&engine, None).await.unwrap();
        assert_eq!(other.is_some(), is_one, "{value:?}");
    }
}

fn is_updater(container: &Value) -> bool {
    container["Config"]["Labels"]["imagewatch.updater"] == "true"
}

fn is_helper(container: &Value) -> bool {
    !container["Config"]["Labels"]["imagewatch.errand"].is_null()
}

/// What `imagewatch run` does, as far as containers go; returns its exit code.
async fn run_program(stage: &Stage, is_outdated: bool, is_barred: &AtomicBool) -> i64 {
    let rollout = &stage.rollout;
    match rollout.run_self_update().await {
        Ok(true) => return 0,
        Ok(false) => {}
        Err(_) => return 1,
    }
    let Ok(predecessor) = rollout.stop_predecessor().await else { return 1 };
    let other = other_updater(&*stage.engine, rollout.own_id.as_deref()).await;
    let is_alone = matches!(other, Ok(None));
    if let Some(predecessor) = &predecessor
        && (!is_alone || rollout.promote(predecessor).await.is_err())
    {
        rollout.restore_predecessor(predecessor, "do a step").await;
        return 1;
    }
    if !is_alone {
        return 7;
    }
    loop {
        let reports = rollout.tend("", &|_| true).await.unwrap_or_default();
        is_barred.fetch_or(reports.iter().any(|report| !report.failed.is_empty()), Ordering::Relaxed);
        rollout.settled("", "web");
        if is_outdated && !is_barred.load(Ordering::Relaxed) {
            stage.pull_again().await;
            let tried = stage.try_replace("web").await;
            let is_lasting =
                |error: &ReplaceError| error.step_error.fault.is_some_and(|fault| fault != Fault::Postponed);
            is_barred
                .fetch_or(tried.is_some_and(|tried| tried.is_err_and(|error| is_lasting(&error))), Ordering::Relaxed);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// By a handover, and by a helper from outside. A helper runs on the old image, so that goes with the next update.
#[rstest]
#[case::handover(false)]
#[case::helper(true)]
#[tokio::test(start_paused = true)]
async fn first_use_4_an_updater_that_was_replaced_runs_its_hook_and_removes_its_old_image(#[case] has_port: bool) {
    let mut machine = Machine::new(json!({ "Behaves": "healthy" }), has_port).await;
    machine.stage.keep_images = Some(0);
    let own = machine.stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
    machine.stage.engine.edit(&own, |c| c["Config"]["Labels"]["imagewatch.hook.post-update"] = json!("after"));
    machine.settle("undisturbed").await;
    assert_eq!(machine.stage.picture()["web"]["image"], "new", "{:#?}", machine.calls());
    assert_eq!(machine.stage.hooks_after(), 1, "{:#?}", machine.calls());
    assert_eq!(machine.stage.engine.images().contains(&"old".to_owned()), has_port, "{:#?}", machine.calls());
}

#[rstest]
#[case::good_image("healthy", true, "new")]
#[case::bad_image("unhealthy", true, "old")]
#[case::image_that_exits("exits", true, "old")]
#[case::good_image_without_a_port("healthy", false, "new")]
#[case::image_that_exits_without_a_port("exits", false, "old")]
#[tokio::test(start_paused = true)]
async fn t40_an_updater_is_replaced_or_goes_on(#[case] behaves: &str, #[case] has_port: bool, #[case] image: &str) {
    let mut machine = Machine::new(json!({ "Behaves": behaves }), has_port).await;
    let until = Instant::now() + Duration::from_mins(5);
    while machine.stage.picture()["web"]["image"] != "new"
        && !machine.is_barred.load(Ordering::Relaxed)
        && Instant::now() < until
    {
        machine.keep_up();
        sleep(TICK).await;
    }
    machine.settle(behaves).await;
    assert_eq!(machine.stage.picture()["web"]["image"], image, "{:#?}", machine.calls());
    assert_eq!(machine.is_barred.load(Ordering::Relaxed), image == "old", "the failure is told to the policy");
    let helpers = machine.calls().iter().filter(|call| call.starts_with("create") && call.ends_with(".helper")).count();
    assert_eq!(helpers, usize::from(has_port), "one try: {:#?}", machine.calls());
}

/// The calls of an update that nobody disturbs, and how many of them the updater itself makes.
async fn calls_of(behaves: &str, has_port: bool) -> (usize, usize) {
    let mut machine = Machine::new(json!({ "Behaves": behaves }), has_port).await;
    machine.settle("undisturbed").await;
    let calls = machine.calls();
    let is_last = |call: &String| call.starts_with("start web.") && call.strip_suffix(".old").is_none();
    (calls.len(), calls.iter().position(is_last).unwrap() + 1)
}

#[rstest]
#[case::good_image("healthy", true)]
#[case::bad_image("unhealthy", true)]
#[case::good_image_without_a_port("healthy", false)]
#[tokio::test(start_paused = true)]
async fn t23_t40_an_updater_or_its_helper_that_dies_after_any_call_leaves_one_updater(
    #[case] behaves: &str,
    #[case] has_port: bool,
) {
    let (all, own) = calls_of(behaves, has_port).await;
    let mut cases = 0;
    for nth in 0..all {
        for (interruption, death, is_wiped) in [
            (Interruption::DieAfter, Death::Crash, false),
            (Interruption::DieAfter, Death::Crash, true),
            (Interruption::DieAfter, Death::Kill, false),
            (Interruption::DieAfter, Death::Everybody, false),
            (Interruption::DieMeanwhile, Death::Crash, false),
            (Interruption::DieMeanwhile, Death::Kill, true),
        ] {
            let case = format!("{behaves}, {interruption:?} {nth}, {death:?}, wiped {is_wiped}");
            let mut machine = Machine::new(json!({ "Behaves": behaves }), has_port).await;
            assert!(machine.run_until_death(nth, interruption).await, "{case}");
            machine.die(death, has_port && nth >= own);
            if is_wiped {
                machine.stage.wipe_journal();
            }
            machine.settle(&case).await;
            cases += 1;
        }
    }
    println!("{behaves}, port {has_port}: {cases} cases");
    assert!(cases >= 40, "{cases} cases");
}

#[tokio::test(start_paused = true)]
async fn t23_t40_a_machine_that_goes_down_while_a_helpers_work_is_ended_leaves_one_updater() {
    let (all, own) = calls_of("healthy", true).await;
    let mut cases = 0;
    for nth in 0..all {
        for mth in (nth % 2..all).step_by(2) {
            let mut machine = Machine::new(json!({ "Behaves": "healthy" }), true).await;
            assert!(machine.run_until_death(nth, Interruption::DieAfter).await);
            machine.die(Death::Crash, nth >= own);
            if !machine.run_until_death(mth, Interruption::DieAfter).await {
                break;
            }
            machine.die(Death::Everybody, true);
            machine.settle(&format!("died after {nth}, then {mth}")).await;
            cases += 1;
        }
    }
    assert!(cases >= 30, "{cases} cases");
}
