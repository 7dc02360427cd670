//! The one error type of Howdah.

use std::{collections::BTreeMap, error::Error as StdError, fmt, time::Duration};

use super::{Kind, Reason};

/// What went wrong, in a half for the caller and a half that stays here.
///
/// `Display` shows only what the caller may see. The context and the source go to
/// the log, once, where the error is handled ([`Error::internal_detail`]).
pub struct Error(Box<Inner>);

struct Inner {
    reason: Reason,
    message: String,
    field: Option<String>,
    resource: Option<String>,
    retry_after: Option<Duration>,
    metadata: BTreeMap<String, String>,
    unanswered: bool,
    context: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a reason and a message for the caller.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: message.into(),
            field: None,
            resource: None,
            retry_after: None,
            metadata: BTreeMap::new(),
            unanswered: false,
            context: None,
            source: None,
        }))
    }

    /// A defect of Howdah: the caller sees a general phrase, the log sees `context`.
    pub fn internal(context: impl Into<String>) -> Self {
        Self::new(Reason::Internal, "an internal error occurred").with_context(context)
    }

    /// Names the request field that is wrong, such as `instance.version`.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Names the resource that the error is about.
    #[must_use]
    pub fn with_resource(mut self, name: impl Into<String>) -> Self {
        self.0.resource = Some(name.into());
        self
    }

    /// Says after which time another try makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Adds an entry to `ErrorInfo.metadata`; the caller sees it.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds what only the log may see. Never a secret.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.0.context = Some(context.into());
        self
    }

    /// Adds the error below, which only the log sees.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says that an instance's server did not answer: another question would not be answered
    /// either.
    #[must_use]
    pub fn unanswered(mut self) -> Self {
        self.0.unanswered = true;
        self
    }

    /// Whether an instance's server did not answer.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.0.unanswered
    }

    /// The same once more, for another caller who waited for the same thing. What was
    /// below it is in the context.
    #[must_use]
    pub fn repeated(&self) -> Self {
        let detail = self.internal_detail();
        Self(Box::new(Inner {
            reason: self.0.reason,
            message: self.0.message.clone(),
            field: self.0.field.clone(),
            resource: self.0.resource.clone(),
            retry_after: self.0.retry_after,
            metadata: self.0.metadata.clone(),
            unanswered: self.0.unanswered,
            context: Some(detail).filter(|detail| !detail.is_empty()),
            source: None,
        }))
    }

    /// Class of the error.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.reason.kind()
    }

    /// Reason of the error.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// Message for the caller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Request field that is wrong.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Resource that the error is about.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// Time after which another try makes sense.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Entries of `ErrorInfo.metadata`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.0.reason.retryable()
    }

    /// Context and chain of sources, for the log alone. Empty if there is none.
    #[must_use]
    pub fn internal_detail(&self) -> String {
        let mut detail = self.0.context.clone().unwrap_or_default();
        let mut next: Option<&(dyn StdError + 'static)> = self
            .0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static));
        while let Some(error) = next {
            if !detail.is_empty() {
                detail.push_str(": ");
            }
            detail.push_str(&error.to_string());
            next = error.source();
        }
        detail
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.0.message, self.0.reason.as_str())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Error")
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("field", &self.0.field)
            .field("detail", &self.internal_detail())
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
