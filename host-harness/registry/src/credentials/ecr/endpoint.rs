//! Recognizes AWS registries and finds their API endpoints. The endpoints come from the tests of the AWS SDK.

/// The API endpoint that issues the token of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) service: &'static str,
    pub(super) region: String,
    pub(super) url: String,
    pub(super) target: &'static str,
    pub(super) is_public: bool,
}

/// The suffixes of registry names, one per AWS partition.
const SUFFIXES: [&str; 7] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
];

/// The endpoint for `registry`. `None` if the registry does not belong to AWS.
pub(super) fn find_endpoint(registry: &str) -> Option<Endpoint> {
    if matches!(registry, "public.ecr.aws" | "ecr-public.aws.com") {
        return Some(Endpoint {
            service: "ecr-public",
            region: "us-east-1".to_owned(),
            url: "https://api.ecr-public.us-east-1.amazonaws.com/".to_owned(),
            target: "SpencerFrontendService.GetAuthorizationToken",
            is_public: true,
        });
    }
    let (account, rest) = registry.split_once('.')?;
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (host, region) = find_host(rest)?;
    Some(Endpoint {
        service: "ecr",
        region,
        url: format!("https://{host}/"),
        target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
        is_public: false,
    })
}

/// The host of the API and the region. `rest` is the part of the registry name after the account.
fn find_host(rest: &str) -> Option<(String, String)> {
    let (is_dual_stack, rest) = match rest.strip_prefix("dkr.ecr") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix("dkr-ecr")?),
    };
    let (fips, rest) = rest.strip_prefix("-fips").map_or(("", rest), |rest| ("-fips", rest));
    let (region, suffix) = rest.strip_prefix('.')?.split_once('.')?;
    let is_region = region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if region.is_empty() || !is_region {
        return None;
    }
    let host = match (is_dual_stack, fips, suffix) {
        (true, _, "on.aws") => format!("ecr{fips}.{region}.api.aws"),
        (true, "", "on.amazonwebservices.com.cn") => format!("ecr.{region}.api.amazonwebservices.com.cn"),
        (true, _, "on.amazonwebservices.com.cn") => format!("api.ecr-fips.{region}.api.amazonwebservices.com.cn"),
        (false, "-fips", "amazonaws.com") => format!("ecr-fips.{region}.amazonaws.com"),
        (false, _, suffix) if SUFFIXES.contains(&suffix) => format!("api.ecr{fips}.{region}.{suffix}"),
        _ => return None,
    };
    Some((host, region.to_owned()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// The hosts follow the pattern of <https://github.com/awslabs/amazon-ecr-credential-helper>. The endpoints come
    /// from `ECREndpointProviderTests.cs` of aws-sdk-net.
    #[rstest]
    #[case::plain("123456789012.dkr.ecr.us-east-1.amazonaws.com", "us-east-1", "api.ecr.us-east-1.amazonaws.com")]
    #[case::fips("123456789012.dkr.ecr-fips.us-west-2.amazonaws.com", "us-west-2", "ecr-fips.us-west-2.amazonaws.com")]
    #[case::gov_fips(
        "123456789012.dkr.ecr-fips.us-gov-east-1.amazonaws.com",
        "us-gov-east-1",
        "ecr-fips.us-gov-east-1.amazonaws.com"
    )]
    #[case::china(
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "cn-north-1",
        "api.ecr.cn-north-1.amazonaws.com.cn"
    )]
    #[case::china_fips(
        "123456789012.dkr.ecr-fips.cn-north-1.amazonaws.com.cn",
        "cn-north-1",
        "api.ecr-fips.cn-north-1.amazonaws.com.cn"
    )]
    #[case::dual_stack("123456789012.dkr-ecr.eu-west-2.on.aws", "eu-west-2", "ecr.eu-west-2.api.aws")]
    #[case::dual_stack_fips("123456789012.dkr-ecr-fips.us-east-1.on.aws", "us-east-1", "ecr-fips.us-east-1.api.aws")]
    #[case::china_dual_stack(
        "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
        "cn-north-1",
        "ecr.cn-north-1.api.amazonwebservices.com.cn"
    )]
    #[case::china_dual_stack_fips(
        "123456789012.dkr-ecr-fips.cn-north-1.on.amazonwebservices.com.cn",
        "cn-north-1",
        "api.ecr-fips.cn-north-1.api.amazonwebservices.com.cn"
    )]
    #[case::europe(
        "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
        "eusc-de-east-1",
        "api.ecr.eusc-de-east-1.amazonaws.eu"
    )]
    #[case::iso("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", "api.ecr.us-iso-east-1.c2s.ic.gov")]
    #[case::isob(
        "123456789012.dkr.ecr-fips.us-isob-east-1.sc2s.sgov.gov",
        "us-isob-east-1",
        "api.ecr-fips.us-isob-east-1.sc2s.sgov.gov"
    )]
    fn a_registry_name_determines_region_and_endpoint(
        #[case] registry: &str,
        #[case] region: &str,
        #[case] host: &str,
    ) {
        let endpoint = find_endpoint(registry).unwrap();
        assert_eq!((endpoint.region.as_str(), endpoint.url), (region, format!("https://{host}/")));
        assert_eq!((endpoint.service, endpoint.is_public), ("ecr", false));
    }

    #[rstest]
    #[case::public("public.ecr.aws")]
    #[case::public_dual_stack("ecr-public.aws.com")]
    fn the_public_registry_has_one_endpoint(#[case] registry: &str) {
        let endpoint = find_endpoint(registry).unwrap();
        assert_eq!(endpoint.url, "https://api.ecr-public.us-east-1.amazonaws.com/");
        assert_eq!((endpoint.service, endpoint.region.as_str(), endpoint.is_public), ("ecr-public", "us-east-1", true));
    }

    #[rstest]
    #[case::other_registry("ghcr.io")]
    #[case::no_account("dkr.ecr.us-east-1.amazonaws.com")]
    #[case::short_account("12345678901.dkr.ecr.us-east-1.amazonaws.com")]
    #[case::subdomain_of_another_domain("123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example")]
    #[case::extra_component("123456789012.dkr.ecr.us-east-1.evil.amazonaws.com")]
    #[case::similar_suffix("123456789012.dkr.ecr.us-east-1.evilamazonaws.com")]
    #[case::no_region("123456789012.dkr.ecr..amazonaws.com")]
    #[case::port("123456789012.dkr.ecr.us-east-1.amazonaws.com:5000")]
    #[case::mixed_forms("123456789012.dkr.ecr.us-east-1.on.aws")]
    #[case::subdomain_of_public("x.public.ecr.aws")]
    fn other_registries_have_no_endpoint(#[case] registry: &str) {
        assert_eq!(find_endpoint(registry), None);
    }
}
