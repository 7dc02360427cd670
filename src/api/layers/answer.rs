//! A future that handles a response when it is ready.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

/// What a layer does with the output of the inner future.
pub trait OnAnswer<T> {
    /// The layer's output.
    type Response;

    /// Makes the layer's output.
    fn answer(self, output: T) -> Self::Response;
}

pin_project! {
    /// The future `F`, followed by `O` with its output.
    #[derive(Debug)]
    pub struct Answered<F, O> {
        #[pin]
        future: F,
        on: Option<O>,
    }
}

impl<F, O> Answered<F, O> {
    pub(super) const fn new(future: F, on: O) -> Self {
        Self {
            future,
            on: Some(on),
        }
    }
}

impl<F, O> Future for Answered<F, O>
where
    F: Future,
    O: OnAnswer<F::Output>,
{
    type Output = Result<O::Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(context));
        match this.on.take() {
            Some(on) => Poll::Ready(Ok(on.answer(output))),
            // Polled after completion, which the contract of futures forbids.
            None => Poll::Pending,
        }
    }
}
