//! What an image index or manifest says of the images behind it, read for one question: whether two digests are
//! the same image in another wrapper. Fetches nothing.

use imagewatch_abi::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// No index is read beyond so many children: they are for people's platforms, of which there are few dozen.
const MAX_CHILDREN: usize = 256;

/// No system, architecture or variant has a longer name: they are kept.
const MAX_PLATFORM_PART: usize = 64;

/// An index by its children, a manifest by its config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// `os/arch[/variant]` and the manifest for it.
    children: Vec<(String, Digest)>,
    /// The digest of the config, by which graph drivers name the image.
    pub(crate) config: Option<Digest>,
}

impl Document {
    /// Reads an OCI or Docker index or manifest.
    ///
    /// # Errors
    /// A fragment saying that it is none.
    pub(crate) fn parse(body: &str) -> Result<Self, String> {
        // Read as a tree: readers for the four kinds of objects in it would be 8 KB of the module.
        let manifest: Value = serde_json::from_slice(body.as_bytes()).unwrap_or_default();
        let digest = |of: &Value| of["digest"].as_str()?.parse::<Digest>().ok();
        let config = digest(&manifest["config"]);
        let manifests = manifest["manifests"].as_array();
        if config.is_none() && manifests.is_none() {
            return Err("answered something that is no image manifest".to_owned());
        }
        let child = |child: &Value| {
            let text = |key: &str| child["platform"][key].as_str().filter(|text| !text.is_empty());
            let (os, architecture, variant) = (text("os")?, text("architecture")?, text("variant"));
            if [os, architecture, variant.unwrap_or_default()].iter().any(|part| part.len() > MAX_PLATFORM_PART) {
                return None;
            }
            let variant = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
            Some((format!("{os}/{architecture}{variant}"), digest(child)?))
        };
        let children = manifests.into_iter().flatten().filter_map(child).take(MAX_CHILDREN).collect();
        Ok(Self { children, config })
    }

    /// Whether it is an index that has manifests, and none of them is for `platform`.
    pub(crate) fn lacks(&self, platform: &str) -> bool {
        !self.children.is_empty() && self.child(platform).is_none()
    }

    /// The manifest for `platform`. A variant that only one side names does not part them: `arm64` is `arm64/v8`.
    pub(crate) fn child(&self, platform: &str) -> Option<&Digest> {
        let is_of = |(name, _): &&(String, Digest)| {
            let starts = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'));
            let is_base = |name: &str| name.split('/').count() == 2;
            name == platform
                || (is_base(platform) && starts(name, platform))
                || (is_base(name) && starts(platform, name))
        };
        let exact = self.children.iter().find(|(name, _)| name == platform);
        exact.or_else(|| self.children.iter().find(is_of)).map(|(_, digest)| digest)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::any_test;

    fn digest(letter: &str) -> Digest {
        format!("sha256:{}", letter.repeat(64)).parse().expect("a digest")
    }

    fn index() -> Document {
        let child = |letter: &str, platform: &str| {
            format!(r#"{{"mediaType":"m","size":1,"digest":"{}","platform":{platform}}}"#, digest(letter))
        };
        let children = [
            child("a", r#"{"os":"linux","architecture":"amd64"}"#),
            child("b", r#"{"os":"linux","architecture":"arm","variant":"v6"}"#),
            child("c", r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
            child("d", r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#),
            child("e", r#"{"os":"unknown","architecture":"unknown"}"#),
        ];
        Document::parse(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","))).expect("an index")
    }

    #[rstest]
    #[test_attr(any_test)]
    #[case::plain("linux/amd64", Some("a"))]
    #[case::variant("linux/arm/v7", Some("c"))]
    #[case::variant_only_there("linux/arm64", Some("d"))]
    #[case::variant_only_here("linux/amd64/v2", Some("a"))]
    #[case::other_variant("linux/arm/v5", None)]
    #[case::other_system("windows/amd64", None)]
    #[case::beginning_of_a_name("linux/ar", None)]
    fn a_platform_finds_its_manifest(#[case] platform: &str, #[case] letter: Option<&str>) {
        assert_eq!(index().child(platform), letter.map(digest).as_ref());
    }

    #[any_test]
    fn a_platform_of_endless_names_is_none() {
        let most = "x".repeat(MAX_PLATFORM_PART);
        for (over, expected) in [(["", "", ""], 1), (["y", "", ""], 0), (["", "y", ""], 0), (["", "", "y"], 0)] {
            let [os, architecture, variant] = over.map(|over| format!("{most}{over}"));
            let platform = format!(r#"{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#);
            let body = format!(r#"{{"manifests":[{{"digest":"{}","platform":{platform}}}]}}"#, digest("a"));
            assert_eq!(Document::parse(&body).expect("an index").children.len(), expected, "{over:?}");
        }
    }

    #[any_test]
    fn a_manifest_is_known_by_its_config() {
        let body = format!(r#"{{"config":{{"digest":"{}","size":2}},"layers":[]}}"#, digest("f"));
        assert_eq!(Document::parse(&body).expect("a manifest").config, Some(digest("f")));
        for body in ["", "<html>", "[]", "{}", "7", r#"{"config":{"digest":"sha256:short"}}"#] {
            Document::parse(body).expect_err(body);
        }
    }
}
