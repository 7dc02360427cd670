//! Messages that are none, too large ones, and text that PostgreSQL cannot store.

use bytes::Bytes;
use howdah::pb::v1::{Database, Instance};
use tonic::{
    Code::InvalidArgument,
    Request, Response, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    service::rig::{Metadata, refused, serve},
    support::howdah::{Howdah, create_database, create_instance},
};

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(target, item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use bytes::Buf as _;
        source.advance(source.remaining());
        Ok(Some(()))
    }
}

async fn send(howdah: &Howdah, method: &'static str, bytes: Bytes) -> Result<Response<()>, Status> {
    let mut client = Grpc::new(howdah.channel().await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(method);
    client.unary(Request::new(bytes), path, Raw).await
}

const METHODS: [&str; 4] = [
    "/howdah.v1.InstanceService/CreateInstance",
    "/howdah.v1.InstanceService/DeleteInstance",
    "/howdah.v1.DatabaseService/CreateDatabase",
    "/howdah.v1.DatabaseService/GetConnection",
];

#[tokio::test]
async fn undecodable_bytes_are_refused() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    // Field 1, a string of two bytes that are no UTF-8; then a truncated one; then a
    // field number that does not exist in protobuf; then noise.
    let broken: [&[u8]; 4] = [
        &[0x0a, 2, 0xc3, 0x28],
        &[0x0a, 200, b'x'],
        &[0x00, 0x01],
        &[0xff; 64],
    ];
    for method in METHODS {
        for bytes in broken {
            let answer = send(&howdah, method, Bytes::copy_from_slice(bytes)).await;
            refused(answer, InvalidArgument, "MESSAGE_UNDECODABLE");
        }
    }
    let answer = send(
        &howdah,
        "/google.longrunning.Operations/GetOperation",
        Bytes::from_static(broken[0]),
    )
    .await;
    refused(answer, InvalidArgument, "MESSAGE_UNDECODABLE");
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn messages_of_5_mib_are_refused() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let large = Instance {
        display_name: "d".repeat(5 << 20),
        ..Instance::default()
    };
    let request = create_instance("orders", large);
    let answer = howdah.instances().await.create_instance(request).await;
    refused(answer, InvalidArgument, "MESSAGE_TOO_LARGE");
    for method in METHODS {
        let answer = send(&howdah, method, Bytes::from(vec![0; 5 << 20])).await;
        refused(answer, InvalidArgument, "MESSAGE_TOO_LARGE");
    }
    // The same connection goes on.
    let mut client = howdah.instances().await;
    let large = Instance {
        display_name: "d".repeat(5 << 20),
        ..Instance::default()
    };
    for _ in 0..3 {
        let request = create_instance("orders", large.clone());
        let answer = client.create_instance(request).await;
        refused(answer, InvalidArgument, "MESSAGE_TOO_LARGE");
    }
    assert_eq!(metadata.content().await, before);
}

/// Protobuf takes U+0000 in a string, PostgreSQL takes it in no text.
#[tokio::test]
async fn text_with_a_nul_is_refused() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let instances = [
        (
            "FIELD_INVALID",
            Instance {
                display_name: "a\0b".into(),
                ..Instance::default()
            },
        ),
        (
            "LABEL_INVALID",
            Instance {
                labels: one("team", "a\0b"),
                ..Instance::default()
            },
        ),
        (
            "LABEL_INVALID",
            Instance {
                labels: one("te\0am", "a"),
                ..Instance::default()
            },
        ),
        (
            "LABEL_INVALID",
            Instance {
                annotations: one("team", "a\0b"),
                ..Instance::default()
            },
        ),
        (
            "PARAMETER_INVALID",
            Instance {
                parameters: one("my.setting", "a\0b"),
                ..Instance::default()
            },
        ),
    ];
    for (why, instance) in instances {
        let request = create_instance("other", instance);
        let answer = howdah.instances().await.create_instance(request).await;
        refused(answer, InvalidArgument, why);
    }
    let databases = [
        Database {
            display_name: "a\0b".into(),
            ..Database::default()
        },
        Database {
            encoding: "UTF8\0".into(),
            ..Database::default()
        },
        Database {
            locale_provider: "icu\0".into(),
            ..Database::default()
        },
        Database {
            locale: "C\0".into(),
            ..Database::default()
        },
    ];
    for database in databases {
        let mut request = create_database("orders", "shop");
        request.database = Some(database);
        let answer = howdah.databases().await.create_database(request).await;
        refused(answer, InvalidArgument, "FIELD_INVALID");
    }
    let mut request = create_database("orders", "shop");
    request.database = Some(Database {
        annotations: one("note", "\0"),
        ..Database::default()
    });
    let answer = howdah.databases().await.create_database(request).await;
    refused(answer, InvalidArgument, "LABEL_INVALID");
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn values_out_of_their_range_are_refused() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    for database in [
        Database {
            connection_limit: -1,
            ..Database::default()
        },
        Database {
            connection_limit: 262_144,
            ..Database::default()
        },
        Database {
            locale_provider: "builtin-ish".into(),
            ..Database::default()
        },
        Database {
            display_name: "d".repeat(256),
            ..Database::default()
        },
    ] {
        let mut request = create_database("orders", "shop");
        request.database = Some(database);
        let answer = howdah.databases().await.create_database(request).await;
        refused(answer, InvalidArgument, "FIELD_INVALID");
    }
    let many = (0..65)
        .map(|at| (format!("l{at}"), String::new()))
        .collect();
    for labels in [
        many,
        [("Upper".to_owned(), String::new())].into(),
        [("l".to_owned(), "v".repeat(64))].into(),
    ] {
        let instance = Instance {
            labels,
            ..Instance::default()
        };
        let request = create_instance("other", instance);
        let answer = howdah.instances().await.create_instance(request).await;
        refused(answer, InvalidArgument, "LABEL_INVALID");
    }
    let mut request = create_instance("other", Instance::default());
    request.instance = None;
    let answer = howdah.instances().await.create_instance(request).await;
    refused(answer, InvalidArgument, "FIELD_INVALID");
    assert_eq!(metadata.content().await, before);
}
