//! Keys and an outage of the metadata.

use tonic::Code;

use super::{id, restart, still_works, with_keys};
use crate::{
    service::rig::{Metadata, refused},
    support::{
        howdah::{Howdah, create_database, eventually},
        metadata_server::MetadataServer,
    },
};

/// A process that is cut off while its key is rotated out does not bring the key back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_not_taken_back_by_a_process_that_was_away() {
    let mut server = MetadataServer::start().await;
    let through_proxy = server.options();
    let mut direct = server.options();
    direct.database_url = Some(server.url_past_the_proxy());
    let away = Howdah::serve(with_keys(through_proxy, 1, &[2])).await;
    away.instance("orders").await;
    let shop = away.database("orders", "shop").await;
    let metadata = Metadata(server.client().await);
    server.proxy.refuse().await;
    server.proxy.cut();
    metadata.age_key(1).await;
    let mut other = Howdah::serve(with_keys(direct, 2, &[1])).await;
    metadata.all_sealed_with(2, 2).await;
    metadata.only_key_is(2).await;
    restart(&mut other, 2, &[]).await;
    server.proxy.pass();
    // Whether it noticed that the metadata was away, which was for a moment only, or not.
    eventually("it finds that its key is out", async || {
        away.log().contains("is not in use any more")
    })
    .await;
    // It reads on, and stores nothing with the key that is not in use any more.
    still_works(&away, "orders", &shop).await;
    let request = create_database("orders", "late");
    let answer = away.databases().await.create_database(request).await;
    refused(answer, Code::FailedPrecondition, "SECRET_KEY_INVALID");
    assert_eq!(metadata.keys().await, [id(2)]);
    assert_eq!(metadata.sealed_with(2).await, (2, 0));
    restart(&mut other, 2, &[]).await;
}
