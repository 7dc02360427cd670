//! A body with a layer's code around each poll.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Result of polling a body.
pub(super) type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// What a layer does at each poll of a body.
pub trait Watch<B: Body> {
    /// Polls the body, and may change the result.
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B>;

    /// Whether the body has ended.
    fn is_end_stream(&self, body: &B) -> bool {
        body.is_end_stream()
    }
}

pin_project! {
    /// The body `B`, watched by `W`.
    #[derive(Debug)]
    pub struct Watched<B, W> {
        #[pin]
        body: B,
        watch: W,
    }
}

impl<B, W> Watched<B, W> {
    pub(super) const fn new(body: B, watch: W) -> Self {
        Self { body, watch }
    }
}

impl<B: Body, W: Watch<B>> Body for Watched<B, W> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled<Self> {
        let this = self.project();
        this.watch.poll(this.body, context)
    }

    fn is_end_stream(&self) -> bool {
        self.watch.is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
