//! Messages made from the descriptors, for every unary method, by callers of every kind:
//! each is answered, each refusal says why, and none finds a defect.

mod message;
mod names;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, BytesMut};
use howdah::{
    api::status,
    pb::{self, v1::Database},
};
use http_body_util::{BodyExt as _, Full};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};

use self::{
    message::{Maker, Style},
    names::Names,
};
use super::{Numbers, deadline, seed};
use crate::{
    edge::harness::Raw,
    service::{SimulatedWorld, counter},
    support::{
        health::{Health, Prober},
        howdah::{Howdah, create_database, succeeded},
    },
};

/// Without a bound from outside.
const SHORT: Duration = Duration::from_secs(10);

/// Longest wait for an answer. A call's own deadline is at most 5 s; the rest is for a
/// machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many send at the same time to each process.
const SENDERS: usize = 2;

/// Rounds over all methods of each sender, whatever the time.
const LEAST: usize = 3;

/// Messages of one connection. The client keeps all that it has read.
const PER_CONNECTION: usize = 300;

/// The role of anonymous callers, one process each: everything, something, nothing.
const ROLES: [&str; 3] = ["admin", "operator", "none"];

/// How many calls ended with each code.
type Codes = BTreeMap<String, usize>;

#[tokio::test(flavor = "multi_thread")]
async fn messages() {
    let end = deadline().unwrap_or_else(|| Instant::now() + SHORT);
    let mut numbers = Numbers(seed());
    // Instances that are created by chance cost nothing there.
    let world = SimulatedWorld::new(&[]);
    world.is(&serde_json::json!({}));
    let options = world.options().await;
    let mut processes = Vec::new();
    for role in ROLES {
        let options = options.clone();
        processes.push(Howdah::serve(options.with("HOWDAH_AUTH_ANONYMOUS_ROLE", role)).await);
    }
    processes[0].instance("orders").await;
    let create = create_database("orders", "shop");
    let created = processes[0].databases().await.create_database(create).await;
    let created = processes[0].wait(created.unwrap().get_ref()).await;
    let _: Database = succeeded(&created);
    let (methods, names) = (methods(), Names::new(created.name));
    let senders = processes.iter().flat_map(|howdah| [howdah; SENDERS]);
    let senders = senders.map(|howdah| {
        let maker = Maker::new(Numbers(numbers.next()), &names);
        fuzz(howdah, &methods, maker, end)
    });
    let codes = futures::future::join_all(senders).await;
    let mut sums: BTreeMap<&str, Codes> = BTreeMap::new();
    for (role, codes) in ROLES.iter().zip(codes.chunks(SENDERS)) {
        let sum = sums.entry(*role).or_default();
        for (code, count) in codes.iter().flatten() {
            *sum.entry(code.clone()).or_default() += count;
        }
        eprintln!("{role:>9} {sum:?}");
    }
    // Else the messages would not reach what they are meant for.
    for (role, codes) in [
        ("admin", ["InvalidArgument", ""]),
        ("admin", ["NotFound", "Ok"]),
        ("operator", ["NotFound", "Ok"]),
        ("operator", ["PermissionDenied", ""]),
        ("none", ["Unauthenticated", ""]),
    ] {
        let found = codes.iter().any(|code| sums[role].contains_key(*code));
        assert!(found, "{role} {codes:?}: {sums:?}");
    }
    assert!(!sums["none"].contains_key("Ok"), "{sums:?}");
    for howdah in &processes {
        assert_eq!(Prober::of(howdah).await.ask().await, Health::UP);
        assert_eq!(counter(howdah, "howdah_panics_total").await, 0);
    }
}

/// Sends messages to all methods, in rounds, until `end`.
async fn fuzz(
    howdah: &Howdah,
    methods: &[MethodDescriptor],
    mut maker: Maker<'_>,
    end: Instant,
) -> Codes {
    let (mut codes, mut sent, mut client) = (Codes::new(), 0, connect(howdah).await);
    while sent < LEAST * methods.len() || Instant::now() < end {
        for method in methods {
            sent += 1;
            if sent % PER_CONNECTION == 0 {
                client = connect(howdah).await;
            }
            let code = send(&client, method, &mut maker).await;
            *codes.entry(format!("{code:?}")).or_default() += 1;
        }
    }
    codes
}

async fn connect(howdah: &Howdah) -> Raw {
    Raw::connect(howdah.endpoint().parse().unwrap()).await
}

/// Sends one message, and checks the answer.
async fn send(client: &Raw, method: &MethodDescriptor, maker: &mut Maker<'_>) -> Code {
    let styles = [
        Style::Sensible,
        Style::Sensible,
        Style::Extreme,
        Style::Broken,
    ];
    let style = styles[maker.numbers.below(4)];
    let message = maker.message(&method.input(), style);
    let body = framed(&message, maker, style);
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let what = || format!("{path} {style:?} {}", hex(&body));
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout_of(method, maker, style))
        .body(Body::new(Full::new(body.clone().freeze())))
        .unwrap();
    let answer = async {
        let answer = client.sender.clone().send_request(request).await?;
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return Ok(status);
        }
        let body = answer.into_body().collect().await?;
        let trailers = body.trailers().expect("trailers");
        Ok::<_, hyper::Error>(Status::from_header_map(trailers).expect("a status"))
    };
    let status = timeout(PATIENCE, answer).await;
    let status = status.unwrap_or_else(|_| panic!("no answer to {}", what()));
    let status = status.unwrap_or_else(|error| panic!("{error} ended {}", what()));
    let code = status.code();
    if code != Code::Ok {
        let known = status::reason(&status).is_some();
        assert!(known, "no reason of ours: {status:?} to {}", what());
    }
    let defect = matches!(code, Code::Internal | Code::Unknown | Code::DataLoss);
    assert!(!defect, "{status:?} to {}", what());
    code
}

/// The message as gRPC frames it, or nearly so.
fn framed(message: &[u8], maker: &mut Maker<'_>, style: Style) -> BytesMut {
    let mut length = u32::try_from(message.len()).unwrap();
    let mut flag = 0;
    let mut body = BytesMut::new();
    if style == Style::Broken && maker.chance(10) {
        match maker.numbers.below(4) {
            0 => length = length.wrapping_sub(1),
            1 => length = u32::MAX,
            2 => length += 1,
            _ => flag = [1, 2, 0xff][maker.numbers.below(3)],
        }
    }
    body.put_u8(flag);
    body.put_u32(length);
    body.extend_from_slice(message);
    body
}

fn timeout_of(method: &MethodDescriptor, maker: &mut Maker<'_>, style: Style) -> &'static str {
    const STRANGE: [&str; 7] = ["0S", "1n", "99999999H", "-1S", "S", "5", "123456789m"];
    match method.name() {
        _ if style != Style::Sensible && maker.chance(3) => STRANGE[maker.numbers.below(7)],
        // Else it waits for operations that take their time.
        "WaitOperation" => "200m",
        _ => "5S",
    }
}

fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(2000);
    shown.map(|byte| format!("{byte:02x}")).collect()
}

/// Every unary method that Howdah serves, of every service.
fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
    });
    let unary =
        |method: &MethodDescriptor| !method.is_server_streaming() && !method.is_client_streaming();
    let methods: Vec<_> = methods.filter(unary).collect();
    assert!(methods.len() > 15, "{methods:?}");
    methods
}
