//! Every rule, alone and together with others. The first rule that applies decides.

use imagewatch_abi::StatusKind::{
    self, Blocked, FailedAndRestored, Held, Local, NotWatched, Pinned, Unknown, UpToDate, UpdateAvailable, Updating,
};
use rstest::rstest;

use super::*;

/// A container that is outdated and may be updated.
fn behind() -> Facts<'static> {
    Facts {
        image: Image::Other,
        is_ordered: false,
        blocked: None,
        strategy: Strategy::Replace,
        hold: None,
        left: None,
        is_resting: false,
        leaves_tag: false,
        tag_note: None,
    }
}

fn with(image: Image<'static>) -> Facts<'static> {
    Facts { image, ..behind() }
}

fn down() -> Image<'static> {
    Image::NotLookedUp("r.io does not answer", Some(7))
}

fn elsewhere() -> Image<'static> {
    Image::Incomparable("no digest of this repository")
}

fn blocked() -> String {
    "it was created with --rm".to_owned()
}

fn wait(kind: StatusKind, until_ms: Option<u64>) -> Hold {
    Hold { kind, reason: "it exited with code 1".to_owned(), until_ms }
}

fn held() -> Hold {
    wait(Held, Some(9))
}

const LEFT: Option<&str> = Some("an update succeeded and left it");

#[rstest]
#[case::up_to_date(with(Image::Same), UpToDate, "up to date", false)]
#[case::up_to_date_in_another_wrapper(with(Image::SameInAnotherWrapper), UpToDate, "another digest", false)]
#[case::up_to_date_and_notify(Facts { strategy: Strategy::Notify, ..with(Image::Same) }, UpToDate, "", false)]
#[case::up_to_date_and_pull_only(Facts { strategy: Strategy::PullOnly, ..with(Image::Same) }, UpToDate, "", false)]
#[case::up_to_date_and_blocked(Facts { blocked: Some(blocked()), ..with(Image::Same) }, UpToDate, "", false)]
#[case::up_to_date_and_held(Facts { hold: Some(held()), ..with(Image::Same) }, UpToDate, "", false)]
#[case::up_to_date_and_resting(Facts { is_resting: true, ..with(Image::Same) }, UpToDate, "", false)]
#[case::up_to_date_and_left(Facts { left: LEFT, ..with(Image::Same) }, UpToDate, "", false)]
#[case::behind(behind(), UpdateAvailable, "another image than the one running", true)]
#[case::behind_on_an_older_tag(Facts { leaves_tag: true, ..behind() }, UpdateAvailable, "a newer tag", true)]
#[case::behind_start_first(Facts { strategy: Strategy::StartFirst, ..behind() }, UpdateAvailable, "", true)]
#[case::behind_remove(Facts { strategy: Strategy::Remove, ..behind() }, UpdateAvailable, "", true)]
#[case::updating(Facts { is_ordered: true, ..behind() }, Updating, "under way", false)]
#[case::updating_and_same(Facts { is_ordered: true, ..with(Image::Same) }, Updating, "under way", false)]
#[case::updating_and_not_looked_up(Facts { is_ordered: true, ..with(down()) }, Updating, "under way", false)]
#[case::updating_and_held(Facts { is_ordered: true, hold: Some(held()), ..behind() }, Updating, "under way", false)]
#[case::updating_and_blocked(Facts { is_ordered: true, blocked: Some(blocked()), ..behind() }, Updating, "", false)]
#[case::held(Facts { hold: Some(held()), ..behind() }, Held, "code 1", false)]
#[case::held_on_an_older_tag(Facts { hold: Some(held()), leaves_tag: true, ..behind() }, Held, "code 1", false)]
#[case::held_pull_only(Facts { hold: Some(held()), strategy: Strategy::PullOnly, ..behind() }, Held, "code 1", false)]
#[case::held_and_left(Facts { hold: Some(held()), left: LEFT, ..behind() }, Held, "code 1", false)]
#[case::failed(Facts { hold: Some(wait(FailedAndRestored, None)), ..behind() }, FailedAndRestored, "code 1", false)]
#[case::failed_for_now(Facts { hold: Some(wait(FailedAndRestored, Some(9))), ..behind() }, FailedAndRestored, "", false)]
#[case::left_before(Facts { left: LEFT, ..behind() }, Held, "left it", false)]
#[case::left_before_start_first(Facts { left: LEFT, strategy: Strategy::StartFirst, ..behind() }, Held, "", false)]
#[case::blocked(Facts { blocked: Some(blocked()), ..behind() }, Blocked, "--rm", false)]
#[case::blocked_and_notify(Facts { blocked: Some(blocked()), strategy: Strategy::Notify, ..behind() }, Blocked, "--rm", false)]
#[case::blocked_and_held(Facts { blocked: Some(blocked()), hold: Some(held()), ..behind() }, Blocked, "--rm", false)]
#[case::blocked_and_left(Facts { blocked: Some(blocked()), left: LEFT, ..behind() }, Blocked, "--rm", false)]
#[case::blocked_and_not_looked_up(Facts { blocked: Some(blocked()), ..with(down()) }, Blocked, "--rm", false)]
#[case::blocked_and_incomparable(Facts { blocked: Some(blocked()), ..with(elsewhere()) }, Blocked, "--rm", false)]
#[case::blocked_and_pinned(Facts { blocked: Some(blocked()), ..with(Image::Pinned) }, Blocked, "--rm", false)]
#[case::blocked_and_resting(Facts { blocked: Some(blocked()), is_resting: true, ..behind() }, Blocked, "--rm", false)]
#[case::notify(Facts { strategy: Strategy::Notify, ..behind() }, Blocked, "`notify`", false)]
#[case::notify_and_held(Facts { strategy: Strategy::Notify, hold: Some(held()), ..behind() }, Blocked, "`notify`", false)]
#[case::notify_on_an_older_tag(Facts { strategy: Strategy::Notify, leaves_tag: true, ..behind() }, Blocked, "", false)]
#[case::pull_only(Facts { strategy: Strategy::PullOnly, ..behind() }, Blocked, "`pull-only`", true)]
#[case::pull_only_pulled(Facts { strategy: Strategy::PullOnly, left: LEFT, ..behind() }, Blocked, "`pull-only`", false)]
#[case::local(with(Image::Local("came from no registry")), Local, "came from no registry", false)]
#[case::local_and_blocked(Facts { blocked: Some(blocked()), ..with(Image::Local("came from no registry")) }, Local, "", false)]
#[case::local_and_held(Facts { hold: Some(held()), ..with(Image::Local("came from no registry")) }, Local, "", false)]
#[case::local_and_notify(Facts { strategy: Strategy::Notify, ..with(Image::Local("came from no registry")) }, Local, "", false)]
#[case::pinned(with(Image::Pinned), Pinned, "pinned by digest", false)]
#[case::pinned_and_notify(Facts { strategy: Strategy::Notify, ..with(Image::Pinned) }, Pinned, "", false)]
#[case::pinned_and_held(Facts { hold: Some(held()), ..with(Image::Pinned) }, Pinned, "", false)]
#[case::not_looked_up(with(down()), Unknown, "does not answer", false)]
#[case::not_looked_up_and_notify(Facts { strategy: Strategy::Notify, ..with(down()) }, Unknown, "", false)]
#[case::not_looked_up_on_an_older_tag(Facts { leaves_tag: true, ..with(down()) }, Unknown, "", false)]
#[case::incomparable(with(elsewhere()), Unknown, "no digest of this repository", false)]
#[case::incomparable_and_held(Facts { hold: Some(held()), ..with(elsewhere()) }, Unknown, "", false)]
#[case::resting(Facts { is_resting: true, ..behind() }, NotWatched, "does not run", false)]
#[case::resting_and_held(Facts { is_resting: true, hold: Some(held()), ..behind() }, NotWatched, "does not run", false)]
fn the_first_rule_that_applies_decides(
    #[case] facts: Facts<'static>,
    #[case] kind: StatusKind,
    #[case] says: &str,
    #[case] is_due: bool,
) {
    let status = status_of(&facts);
    assert_eq!(status.kind, kind, "{status:?}");
    let reason = status.reason.unwrap_or_default();
    assert!(!reason.is_empty() && reason.contains(says), "{reason}");
    assert_eq!(Rule::of(&facts).is_due(), is_due, "an order follows only if the status announces it");
    let until = match kind {
        Held | FailedAndRestored => facts.hold.and_then(|hold| hold.until_ms),
        Unknown if facts.image == down() => Some(7),
        _ => None,
    };
    assert_eq!(status.until_ms, until);
}

#[test]
fn the_tag_note_is_shown_only_for_an_up_to_date_container() {
    let note = Hold { kind: Unknown, reason: "no other tag of its form".to_owned(), until_ms: None };
    let noted = |image| Facts { tag_note: Some(&note), ..with(image) };
    assert_eq!(status_of(&noted(Image::Same)).kind, Unknown);
    assert_eq!(status_of(&noted(Image::Other)).kind, UpdateAvailable);
}
