//! Admits only gRPC: a POST with gRPC's content type and with headers of a limited size.
//!
//! A browser sends requests with the user's client certificate for any page. A page cannot set
//! this content type unless the server has allowed it before.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use tonic::Status;
use tower::{Layer, Service};

use crate::domain::{Error, Reason};

use super::{Response, gate::Passing};

/// Most bytes of a call's headers. HTTP/2 accepts four times as many, because it responds to
/// larger headers with a bare 431, which a gRPC client cannot interpret.
const MAX_HEADERS: usize = 16 * 1024;

const CONTENT_TYPE: &str = "application/grpc";

/// Refuses everything else than gRPC.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolLayer;

impl<S> Layer<S> for ProtocolLayer {
    type Service = Protocol<S>;

    fn layer(&self, inner: S) -> Protocol<S> {
        Protocol(inner)
    }
}

/// A service for gRPC only.
#[derive(Clone, Debug)]
pub struct Protocol<S>(S);

impl<S, B> Service<Request<B>> for Protocol<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Passing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match refusal(request.method(), request.headers()).or_else(|| oversized(&request)) {
            None => Passing::through(self.0.call(request)),
            Some(response) => Passing::answered(response),
        }
    }
}

/// The response to a request that is not gRPC. HTTP clients and gRPC clients can both read it.
fn refusal(method: &Method, headers: &HeaderMap) -> Option<Response> {
    let refuse = |code, message| {
        let error = Error::new(Reason::HttpRequestInvalid, message);
        let mut response: Response = Status::from(error).into_http();
        *response.status_mut() = code;
        response
    };
    if method != Method::POST {
        let message = "a gRPC call is an HTTP POST";
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, message);
        let allowed = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allowed);
        return Some(response);
    }
    if headers.get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return None;
    }
    let message = "a gRPC call has the content type application/grpc";
    Some(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// The response to a call whose headers are too large, by their size in HPACK (RFC 7541, section
/// 4.1).
fn oversized<B>(request: &Request<B>) -> Option<Response> {
    const ENTRY: usize = 32;
    const PSEUDO: usize = 4 * ENTRY + ":method:path:scheme:authority".len() + "POSThttps".len();
    let uri = request.uri();
    let target = uri.path().len() + uri.authority().map_or(0, |it| it.as_str().len());
    let headers = request.headers().iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len() + ENTRY)
        .sum();
    if headers + target + PSEUDO <= MAX_HEADERS {
        return None;
    }
    let message = format!("the headers of a call have {MAX_HEADERS} bytes at most");
    let error =
        Error::new(Reason::HeadersTooLarge, message).with_metadata("most", MAX_HEADERS.to_string());
    Some(Status::from(error).into_http())
}

/// Whether the value is `application/grpc`, without a format or with protobuf.
fn is_grpc(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    let (kind, _) = text.split_once(';').unwrap_or((text, ""));
    let kind = kind.trim().to_ascii_lowercase();
    kind.strip_prefix(CONTENT_TYPE)
        .is_some_and(|format| matches!(format, "" | "+proto"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_alone_is_grpc() {
        for (text, known) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC ; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpc+json", false),
            ("application/json", false),
            ("text/plain;application/grpc", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&HeaderValue::from_static(text)), known, "{text}");
        }
    }
}
