//! What a client can do wrong on purpose. Each attacker goes on until it is dropped.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use bytes::{BufMut as _, BytesMut};
use howdah::pb::v1::{GetInstanceRequest, ListInstancesRequest};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use super::Victim;
use crate::{
    edge::frames::{self, CONTINUATION, Framed, HEADERS, PING, SETTINGS, call, cancelled, frame},
    support::howdah::{PROJECT, instance_name},
};

const GET: &str = "/howdah.v1.InstanceService/GetInstance";
const LIST: &str = "/howdah.v1.InstanceService/ListInstances";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// HTTP/2's default window, and the largest.
const WINDOW: u32 = 65_535;
const WIDE: u32 = (1 << 31) - 1;

/// Streams of a connection.
const STREAMS: u32 = 100;

/// A pause of those who come back after they were refused: what a connection costs is not
/// what most rows are about.
const PAUSE: Duration = Duration::from_millis(100);

type Attacking = Pin<Box<dyn Future<Output = ()> + Send>>;

pub struct Attack {
    pub name: &'static str,
    /// How many do it at the same time.
    pub attackers: usize,
    pub run: fn(Victim) -> Attacking,
}

macro_rules! attacks {
    ($($name:literal, $attackers:literal, $run:ident;)*) => {
        &[$(Attack {
            name: $name,
            attackers: $attackers,
            run: |victim| Box::pin(again(victim, $run)),
        }),*]
    };
}

/// Some attack as hundreds of connections, more than one caller may have.
pub const ATTACKS: &[Attack] = attacks! {
    "silent connections", 600, silent;
    "silent connections on the admin port", 600, silent_at_the_admin_port;
    "half a request on the admin port", 200, half_a_request_at_the_admin_port;
    "connections that come and go", 8, come_and_go;
    "headers without an end", 200, half_sent_headers;
    "messages without an end", 50, half_sent_messages;
    "answers that are not let out (window 0)", 40, closed_windows;
    "answers that are not read (socket)", 20, unread_socket;
    "answers that are read slowly", 20, slow_reader;
    "calls that are reset at once", 8, resets;
    "health watches", 40, watches;
    "reflection streams", 40, reflections;
    "PING frames", 8, pings;
    "SETTINGS frames", 8, settings;
    "CONTINUATION frames", 8, continuations;
    "garbage", 8, garbage;
};

/// Attacks until nobody wants it any more; who is thrown out comes back.
async fn again<F>(victim: Victim, attack: impl Fn(Victim) -> F)
where
    F: Future<Output = io::Result<()>>,
{
    loop {
        // That an attack is cut off is what should happen.
        let _ = attack(victim).await;
        sleep(PAUSE).await;
    }
}

/// A gRPC frame with a message.
fn framed(message: &impl Message) -> BytesMut {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().unwrap());
    framed.extend_from_slice(&message);
    framed
}

fn get() -> BytesMut {
    framed(&GetInstanceRequest {
        name: instance_name("orders"),
    })
}

/// For an answer of three mebibytes.
fn list() -> BytesMut {
    framed(&ListInstancesRequest {
        parent: PROJECT.into(),
        ..ListInstancesRequest::default()
    })
}

/// Reads and forgets until the server ends the connection.
async fn to_the_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn connect_and_wait(address: SocketAddr, first: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(first).await?;
    to_the_end(&mut stream).await
}

async fn silent(victim: Victim) -> io::Result<()> {
    connect_and_wait(victim.api, b"").await
}

async fn silent_at_the_admin_port(victim: Victim) -> io::Result<()> {
    connect_and_wait(victim.admin, b"").await
}

async fn half_a_request_at_the_admin_port(victim: Victim) -> io::Result<()> {
    connect_and_wait(victim.admin, b"GET /metrics HTTP/1.1\r\nho").await
}

async fn come_and_go(victim: Victim) -> io::Result<()> {
    for _ in 0..50 {
        drop(Framed::try_connect(victim.api, WINDOW).await?);
    }
    Ok(())
}

/// Begins a stream on each odd number, and waits.
async fn begin_streams(victim: Victim, first: impl Fn(u32) -> BytesMut) -> io::Result<()> {
    let mut framed = Framed::try_connect(victim.api, WINDOW).await?;
    for number in 0..STREAMS {
        framed.0.write_all(&first(1 + 2 * number)).await?;
    }
    to_the_end(&mut framed.0).await
}

async fn half_sent_headers(victim: Victim) -> io::Result<()> {
    let mut framed = Framed::try_connect(victim.api, WINDOW).await?;
    let headers = frames::headers(1, GET);
    let (_, block) = headers.split_at(9);
    let half = frame(HEADERS, 0, 1, block);
    framed.0.write_all(&half).await?;
    to_the_end(&mut framed.0).await
}

async fn half_sent_messages(victim: Victim) -> io::Result<()> {
    begin_streams(victim, |stream| {
        let mut begun = frames::headers(stream, GET);
        let mut body = get();
        body.truncate(body.len() - 1);
        begun.unsplit(frame(frames::DATA, 0, stream, &body));
        begun
    })
    .await
}

async fn watches(victim: Victim) -> io::Result<()> {
    begin_streams(victim, |stream| call(stream, WATCH, &[0; 5])).await
}

async fn reflections(victim: Victim) -> io::Result<()> {
    begin_streams(victim, |stream| frames::headers(stream, REFLECT)).await
}

/// Asks for as many large answers as one connection can.
async fn ask(victim: Victim, window: u32) -> io::Result<Framed> {
    let mut framed = Framed::try_connect(victim.api, window).await?;
    let list = list();
    for number in 0..STREAMS {
        framed
            .0
            .write_all(&call(1 + 2 * number, LIST, &list))
            .await?;
    }
    Ok(framed)
}

/// Lets the connection's answers come without end.
async fn open_window(framed: &mut Framed) -> io::Result<()> {
    framed.0.write_all(&frames::wide_open()).await
}

async fn closed_windows(victim: Victim) -> io::Result<()> {
    let mut framed = ask(victim, 0).await?;
    to_the_end(&mut framed.0).await
}

async fn unread_socket(victim: Victim) -> io::Result<()> {
    let mut framed = ask(victim, WIDE).await?;
    open_window(&mut framed).await?;
    // Nothing is read; what is written now fails when the connection is closed.
    loop {
        sleep(Duration::from_millis(100)).await;
        framed.0.write_all(&frame(PING, 0, 0, b"are you?")).await?;
    }
}

async fn slow_reader(victim: Victim) -> io::Result<()> {
    let mut framed = ask(victim, WIDE).await?;
    open_window(&mut framed).await?;
    let mut buffer = [0; 1024];
    while framed.0.read(&mut buffer).await? > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn resets(victim: Victim) -> io::Result<()> {
    let mut framed = Framed::try_connect(victim.api, WINDOW).await?;
    for round in 0..1000 {
        let streams = (0..50).map(|number| 1 + 2 * (50 * round + number));
        let burst: Vec<u8> = streams.flat_map(|stream| cancelled(stream, GET)).collect();
        framed.0.write_all(&burst).await?;
    }
    Ok(())
}

/// Writes the same frames for ever, and reads what comes.
async fn repeat(victim: Victim, begin: &[u8], frames: &[u8]) -> io::Result<()> {
    let framed = Framed::try_connect(victim.api, WINDOW).await?;
    let (mut reader, mut writer) = framed.0.into_split();
    let writes = async {
        writer.write_all(begin).await?;
        loop {
            writer.write_all(frames).await?;
        }
    };
    let reads = async {
        let mut buffer = vec![0; 16 * 1024];
        while reader.read(&mut buffer).await? > 0 {}
        Ok(())
    };
    tokio::select! {
        ended = writes => ended,
        ended = reads => ended,
    }
}

async fn pings(victim: Victim) -> io::Result<()> {
    repeat(victim, b"", &frame(PING, 0, 0, b"are you?").repeat(100)).await
}

async fn settings(victim: Victim) -> io::Result<()> {
    repeat(victim, b"", &frame(SETTINGS, 0, 0, b"").repeat(100)).await
}

async fn continuations(victim: Victim) -> io::Result<()> {
    // A header as literals, again and again, of a block that never ends.
    let mut header = BytesMut::from(&b"\0\x01x\x7e"[..]);
    header.extend_from_slice(&[b'v'; 0x7e]);
    let begin = frame(HEADERS, 0, 1, &header);
    let more = frame(CONTINUATION, 0, 1, &header.repeat(20));
    repeat(victim, &begin, &more.repeat(10)).await
}

async fn garbage(victim: Victim) -> io::Result<()> {
    connect_and_wait(victim.api, &b"GET / HTTP/1.1\r\n\r\n".repeat(200)).await?;
    repeat(victim, b"", &[0x5a; 4096]).await
}
