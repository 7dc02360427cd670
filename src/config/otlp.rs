//! Where traces and metrics are sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, problem::require};

/// Where traces and metrics are sent.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// Collector that takes OTLP over gRPC, such as `http://127.0.0.1:4317`, or
    /// `https://...` by the machine's authorities. None: nothing is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

impl Otlp {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let Some(endpoint) = &self.endpoint else {
            return;
        };
        let uri = endpoint.parse::<http::Uri>().ok();
        let fits = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        require(
            problems,
            fits,
            "otlp.endpoint",
            "must be a URL such as http://127.0.0.1:4317",
        );
    }
}
