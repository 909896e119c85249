//! A page of a repository's tag list, and where the next one is. Which tag to follow is decided elsewhere.

use imagewatch_abi::is_tag;
use serde::Deserialize;

/// So many tags are read of a repository, and no more: a list that was cut off would hide the newest.
const MAX_TAGS: usize = 20_000;

/// So many pages are read of a tag list.
const MAX_PAGES: usize = 100;

/// So many bytes are read of a tag list, more than the longest tags come to: what one registry sends counts against the
/// call, in which others are asked too.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// What has come of a tag list so far.
#[derive(Debug, Default)]
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

/// `target` as seen from `url`. A page elsewhere is not fetched: whoever wrote the header may have chosen it.
fn resolve_link(url: &str, target: &str) -> Result<String, String> {
    let path = url.split('?').next().unwrap_or(url);
    let origin_end = path.find("://").map_or(0, |at| at + 3);
    let origin_end = path[origin_end..].find('/').map_or(path.len(), |at| origin_end + at);
    let origin = &path[..origin_end];
    let next = if target.starts_with("//") {
        return Err("links its next page to another host".to_owned());
    } else if target.starts_with('/') {
        format!("{origin}{target}")
    } else if target.starts_with('?') {
        format!("{path}{target}")
    } else if target.strip_prefix(origin).is_some_and(|rest| rest.starts_with('/')) {
        target.to_owned()
    } else {
        return Err("links its next page to another host".to_owned());
    };
    if next == url { Err("links a page to itself".to_owned()) } else { Ok(next) }
}

#[cfg(test)]
mod tests;
