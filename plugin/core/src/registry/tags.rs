//! A page of a repository's tag list, and where the next one is. Which tag to follow is decided elsewhere.

use imagewatch_abi::is_tag;
use serde::{Deserialize, Serialize};

/// So many tags are read of a repository, and no more: a list that was cut off would hide the newest.
const MAX_TAGS: usize = 20_000;

/// So many pages are read of a tag list.
const MAX_PAGES: usize = 100;

/// So many bytes are read of a tag list, more than the longest tags come to: what one registry sends counts against the
/// call, in which others are asked too.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// What has come of a tag list so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagList {
    pub(crate) tags: Vec<String>,
    /// The URL of the next page; absent before the first one and after the last.
    pub(crate) next: Option<String>,
    /// Pages read.
    pub(crate) pages: usize,
    /// Bytes of them.
    bytes: usize,
}

#[derive(Deserialize)]
struct Page {
    /// Some registries say null for none.
    tags: Option<Vec<String>>,
}

impl TagList {
    /// Adds the page that came from `url`, with its `Link` headers.
    ///
    /// # Errors
    /// A fragment saying what is wrong with the page.
    pub(crate) fn add(&mut self, url: &str, body: &str, links: &[&str]) -> Result<(), String> {
        self.bytes += body.len();
        let page: Page =
            serde_json::from_slice(body.as_bytes()).map_err(|_| "answered something that is no tag list".to_owned())?;
        // What is no tag by the grammar cannot be pulled either.
        self.tags.extend(page.tags.unwrap_or_default().into_iter().filter(|tag| is_tag(tag)));
        self.pages += 1;
        self.next =
            links.iter().find_map(|link| parse_next(link)).map(|target| resolve_link(url, target)).transpose()?;
        let is_cut = self.next.is_some() && (self.pages >= MAX_PAGES || self.bytes >= MAX_BYTES);
        if is_cut || self.tags.len() > MAX_TAGS {
            return Err(format!("has more tags than are read: {MAX_TAGS} on {MAX_PAGES} pages, in 4 MiB"));
        }
        Ok(())
    }
}

/// The target of the link to the next page in one `Link` header; one without `rel` is believed to be it.
fn parse_next(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let params = after.split('<').next().unwrap_or_default().to_ascii_lowercase();
        let is_next = match params.split_once("rel") {
            None => true,
            Some((_, rel)) => {
                let rel = rel.trim_start().strip_prefix('=').unwrap_or_default().trim_start().trim_start_matches('"');
                rel.starts_with("next")
            }
        };
        if is_next && !target.is_empty() && target.bytes().all(|b| b.is_ascii_graphic()) {
            return Some(target);
        }
        rest = after;
    }
    None
}

/// `target` as seen from `url`, as RFC 3986 has it, but always at the host and with the scheme of `url`: a registry behind
/// a proxy may not know either. A page on another host is not fetched: whoever wrote the header may have chosen it.
fn resolve_link(url: &str, target: &str) -> Result<String, String> {
    let target = target.split('#').next().unwrap_or(target);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path_and_query) = split_host(rest);
    let (path, _) = split_query(path_and_query);
    let place = match split_scheme(target) {
        Some((of_target, rest)) => {
            let rest = rest.strip_prefix("//").filter(|_| matches!(of_target.as_str(), "http" | "https"));
            let rest = rest.ok_or_else(|| "links its next page to what is no http(s) URL".to_owned())?;
            on_host(host, scheme, &of_target, rest)?
        }
        None => match target.strip_prefix("//") {
            Some(rest) => on_host(host, scheme, scheme, rest)?,
            None => target,
        },
    };
    let (to, query) = split_query(place);
    let to = match to {
        "" => path.to_owned(),
        absolute if absolute.starts_with('/') => without_dots(absolute),
        relative => without_dots(&format!("{}/{relative}", path.rsplit_once('/').map_or("", |(folder, _)| folder))),
    };
    let next = format!("{scheme}://{host}{to}{query}");
    if next == url { Err("links a page to itself".to_owned()) } else { Ok(next) }
}

/// What follows the host in `rest`, the text of a URL after `//`, if its host is `host`.
fn on_host<'a>(host: &str, scheme: &str, target_scheme: &str, rest: &'a str) -> Result<&'a str, String> {
    let (named, place) = split_host(rest);
    let bare = |scheme: &str, host: &str| {
        let host = host.to_ascii_lowercase();
        let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        host.strip_suffix(port).unwrap_or(&host).to_owned()
    };
    if bare(scheme, host) != bare(target_scheme, named) {
        let shown: String = named.rsplit('@').next().unwrap_or(named).chars().take(80).collect();
        return Err(format!(
            "links its next page to another host, {shown}, which is not followed; behind a proxy a registry must be told \
             its own name"
        ));
    }
    // Nothing after the host is its root, not the page itself.
    Ok(if place.is_empty() { "/" } else { place })
}

/// The scheme, in lower case, and what follows its colon.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| (scheme.to_ascii_lowercase(), rest))
}

fn split_host(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
}

/// The path and, with its question mark, the query.
fn split_query(place: &str) -> (&str, &str) {
    place.split_at(place.find('?').unwrap_or(place.len()))
}

/// `path` without `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests;
