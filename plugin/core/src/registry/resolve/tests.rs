//! Look-ups against registries made of closures, which count what they are asked. The stories in `scripts/` show the
//! same from outside.

mod elsewhere;
mod limits;
mod logins;
mod pending;
mod tokens;

use std::collections::BTreeMap;

use imagewatch_abi::{Containers, HttpResponses, LogLine, Method, Order, OrdersAccepted, Selector};

use super::*;
use crate::any_test;
use crate::config::Insecure;

const NOW_MS: u64 = 1_795_269_600_000;
const MINUTE_MS: u64 = 60_000;

type Registries<'a> = dyn FnMut(&HttpRequest) -> Answer<HttpResponse> + 'a;

/// A host whose registries are `answer`.
struct World<'a> {
    answer: Box<Registries<'a>>,
    asked: Vec<HttpRequest>,
    rounds: usize,
    logged: Vec<String>,
}

impl<'a> World<'a> {
    fn new(answer: impl FnMut(&HttpRequest) -> Answer<HttpResponse> + 'a) -> Self {
        Self { answer: Box::new(answer), asked: vec![], rounds: 0, logged: vec![] }
    }

    /// Looks up `images` at `now_ms`.
    fn resolve(&mut self, cache: &mut Cache, now_ms: u64, images: &[String]) -> BTreeMap<String, Lookup> {
        let references = images.iter().map(|image| image.parse::<Reference>().expect("a reference")).collect();
        let found = resolve(self, cache, &Insecure::none(), now_ms, references);
        // As the host keeps it between calls.
        *cache = Cache::parse(&std::mem::take(cache).into_value(now_ms));
        found.into_iter().map(|(reference, lookup)| (reference.to_string(), lookup)).collect()
    }

    /// What was asked since the last call: method and URL.
    fn take_asked(&mut self) -> Vec<String> {
        self.rounds = 0;
        let line = |request: HttpRequest| format!("{:?} {}", request.method, request.url).replace("https://", "");
        self.asked.drain(..).map(line).collect()
    }
}

impl Host for World<'_> {
    fn config(&self, _key: &str) -> Option<String> {
        None
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        self.rounds += 1;
        assert!(self.rounds < 100, "a look-up ends");
        let responses = batch.requests.iter().map(|request| (self.answer)(request)).collect();
        self.asked.extend(batch.requests);
        Answer::Ok(HttpResponses { responses })
    }

    fn docker_containers(&mut self, _selector: Selector) -> Answer<Containers> {
        unreachable!("a look-up asks no engine")
    }

    fn docker_refresh(&mut self, _orders: Vec<Order>) -> Answer<OrdersAccepted> {
        unreachable!("a look-up orders nothing")
    }

    fn log(&mut self, line: LogLine) {
        self.logged.push(line.message);
    }
}

fn digest(letter: &str) -> Digest {
    format!("sha256:{}", letter.repeat(64)).parse().expect("a digest")
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpResponse { status, headers, body: body.to_owned(), ..HttpResponse::default() }
}

fn found() -> HttpResponse {
    answer(200, &[("docker-content-digest", digest("a").as_str())], "")
}

fn bearer(realm: &str, more: &str) -> HttpResponse {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"{more}");
    answer(401, &[("www-authenticate", &challenge)], "")
}

fn basic() -> HttpResponse {
    answer(401, &[("www-authenticate", "Basic realm=\"r\"")], "")
}

fn with_login(response: HttpResponse) -> HttpResponse {
    HttpResponse { authenticated: true, credential_id: Some("id-1".to_owned()), ..response }
}

fn token(value: &str) -> HttpResponse {
    answer(200, &[], &format!(r#"{{"token":"{value}","expires_in":300}}"#))
}

fn images(registry: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{registry}/o/app{index:04}:v1")).collect()
}

/// The token that a request carries.
fn token_of(request: &HttpRequest) -> Option<&str> {
    let value = request.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.as_str());
    value.and_then(|value| value.strip_prefix("Bearer "))
}

fn repository_of(request: &HttpRequest) -> &str {
    let rest = request.url.split_once("/v2/").map_or("", |(_, rest)| rest);
    rest.split("/manifests/").next().unwrap_or(rest)
}

fn count(asked: &[String], part: &str) -> usize {
    asked.iter().filter(|line| line.contains(part)).count()
}

#[any_test]
fn a_registry_without_proof_is_asked_once_for_each_image() {
    let mut world = World::new(|_| Answer::Ok(found()));
    let mut cache = Cache::default();
    let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 600));
    assert!(found.values().all(|lookup| *lookup == Ok(digest("a"))));
    assert_eq!((world.asked.len(), world.rounds), (600, 3), "one goes ahead, then batches of 512");
    world.take_asked();
    world.resolve(&mut cache, NOW_MS, &images("r.io", 600));
    assert_eq!((world.asked.len(), world.rounds), (600, 2));
}

#[any_test]
fn a_head_that_says_no_digest_is_followed_by_the_content_once_and_remembered() {
    for head in [answer(405, &[], ""), answer(200, &[], ""), answer(200, &[("docker-content-digest", "md5:0")], "")] {
        let mut world = World::new(|request| {
            let hashed = HttpResponse { body_digest: Some(digest("b")), ..answer(200, &[], "") };
            Answer::Ok(if request.method == Method::Head { head.clone() } else { hashed })
        });
        let mut cache = Cache::default();
        let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 1));
        assert_eq!(found["r.io/o/app0000:v1"], Ok(digest("b")));
        assert_eq!(world.take_asked(), ["Head r.io/v2/o/app0000/manifests/v1", "Get r.io/v2/o/app0000/manifests/v1"]);
        world.resolve(&mut cache, NOW_MS, &images("r.io", 1));
        assert_eq!(world.take_asked(), ["Get r.io/v2/o/app0000/manifests/v1"], "no HEAD for nothing");
    }
}

#[any_test]
fn a_registry_whose_head_works_goes_on_being_asked_by_it() {
    let mut world = World::new(|request| {
        let hashed = HttpResponse { body_digest: Some(digest("b")), ..answer(200, &[], "") };
        let is_odd = request.url.contains("0001");
        Answer::Ok(match request.method {
            Method::Head if is_odd => answer(405, &[], ""),
            Method::Head => found(),
            _ => hashed,
        })
    });
    let mut cache = Cache::default();
    world.resolve(&mut cache, NOW_MS, &images("r.io", 2));
    world.take_asked();
    world.resolve(&mut cache, NOW_MS, &images("r.io", 2));
    assert_eq!(count(&world.take_asked(), "Head"), 2, "a GET counts against quotas");
}

#[any_test]
fn a_wrong_header_is_told_and_the_content_believed() {
    let mut world = World::new(|request| {
        let wrong = answer(200, &[("docker-content-digest", digest("c").as_str())], "");
        Answer::Ok(match request.method {
            Method::Head => answer(405, &[], ""),
            _ => HttpResponse { body_digest: Some(digest("b")), ..wrong },
        })
    });
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 1));
    assert_eq!(found["r.io/o/app0000:v1"], Ok(digest("b")));
    assert!(world.logged[0].contains("went by the content"), "{:?}", world.logged);
}

#[any_test]
fn what_is_not_there_is_asked_for_once() {
    let mut world = World::new(|_| Answer::Ok(answer(404, &[], "")));
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 1));
    let failure = found["r.io/o/app0000:v1"].as_ref().expect_err("not found");
    assert_eq!((failure.code, world.asked.len()), (FailureCode::NotFound, 1));
    assert!(failure.message.contains("r.io has no o/app0000:v1"), "{failure}");
}

#[any_test]
fn a_content_that_was_not_hashed_is_a_failure() {
    let mut world = World::new(|_| Answer::Ok(answer(200, &[], "")));
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 1));
    let failure = found["r.io/o/app0000:v1"].as_ref().expect_err("no digest");
    assert!(failure.message.contains("not hashed"), "{failure}");
}

#[any_test]
fn tags_are_listed_over_pages_with_the_token_of_the_repository() {
    let mut world = World::new(|request| {
        Answer::Ok(match (request.url.contains("/token"), token_of(request), request.url.contains("last=b")) {
            (true, _, _) => token("t"),
            (_, None, _) => bearer("https://r.io/token", ""),
            _ if request.method == Method::Head => found(),
            (_, _, false) => {
                answer(200, &[("link", "</v2/o/a/tags/list?last=b>; rel=\"next\"")], r#"{"tags":["a","b"]}"#)
            }
            (_, _, true) => answer(200, &[], r#"{"tags":["c"]}"#),
        })
    });
    let references =
        ["r.io/o/a:v1".parse().expect("a reference"), "r.io/o/a".parse().expect("a reference")].into_iter().collect();
    let mut cache = Cache::default();
    let found = list_tags(&mut world, &mut cache, &Insecure::none(), NOW_MS, &references);
    assert_eq!(found["r.io/o/a"], Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
    let asked = world.take_asked();
    assert_eq!(asked.len(), 4, "challenge, token, two pages: {asked:?}");
    world.resolve(&mut cache, NOW_MS, &["r.io/o/a:v1".to_owned()]);
    assert_eq!(world.take_asked(), ["Head r.io/v2/o/a/manifests/v1"], "what was learnt serves the digests too");
}

#[any_test]
fn a_tag_list_that_leads_elsewhere_is_a_failure() {
    let mut world = World::new(|_| {
        Answer::Ok(answer(200, &[("link", "<http://169.254.169.254/>; rel=\"next\"")], r#"{"tags":["a"]}"#))
    });
    let references = ["r.io/o/a".parse().expect("a reference")].into_iter().collect();
    let found = list_tags(&mut world, &mut Cache::default(), &Insecure::none(), NOW_MS, &references);
    let failure = found["r.io/o/a"].as_ref().expect_err("refused");
    assert!(failure.message.contains("another host"), "{failure}");
    assert_eq!(world.asked.len(), 1);
}

#[any_test]
fn an_endless_tag_list_fails_alone_and_soon() {
    let page = format!(r#"{{"tags":["a"],"more":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    let mut pages = 0;
    let mut world = World::new(|request| {
        if !request.url.contains("endless.io") {
            return Answer::Ok(answer(200, &[], r#"{"tags":["a"]}"#));
        }
        pages += 1;
        Answer::Ok(answer(200, &[("link", &format!("<?last={pages}>; rel=\"next\""))], &page))
    });
    let references =
        ["endless.io/o/a", "r.io/o/a"].map(|name| name.parse().expect("a reference")).into_iter().collect();
    let found = list_tags(&mut world, &mut Cache::default(), &Insecure::none(), NOW_MS, &references);
    let failure = found["endless.io/o/a"].as_ref().expect_err("endless");
    assert!(failure.message.contains("more tags than are read"), "{failure}");
    assert_eq!(found["r.io/o/a"], Ok(vec!["a".to_owned()]));
    drop(world);
    assert_eq!(pages, 2);
}

#[any_test]
fn documents_are_read_once() {
    let body = format!(r#"{{"config":{{"digest":"{}"}}}}"#, digest("c"));
    let mut world = World::new(|_| Answer::Ok(answer(200, &[], &body)));
    let mut cache = Cache::default();
    let reference: Reference = "r.io/o/a:v1".parse().expect("a reference");
    for _ in 0..2 {
        load_documents(
            &mut world,
            &mut cache,
            &Insecure::none(),
            NOW_MS,
            [reference.at(&digest("d"))].into_iter().collect(),
        );
    }
    assert_eq!(cache.documents[&digest("d")].config, Some(digest("c")));
    assert_eq!(world.take_asked(), [format!("Get r.io/v2/o/a/manifests/{}", digest("d"))]);
}
