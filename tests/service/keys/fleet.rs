//! Several processes with different keys on one metadata database.

use tonic::Code;

use super::{id, key, restart, still_works, try_connection, with_keys};
use crate::{
    service::rig::{Metadata, queries, refused},
    support::howdah::{Howdah, Options, create_database, create_instance, eventually, signal},
};

/// With metadata of its own, and with these keys, which it looks after every half second
/// instead of every 10 s.
async fn options(current: u8, previous: &[u8]) -> Options {
    let options = with_keys(Options::external().await, current, previous);
    options.with(
        "FAILPOINTS",
        "clock.settling=return(0);keys.pause=return(500)",
    )
}

/// Beside another one, on another host, with these keys.
async fn beside(howdah: &Howdah, current: u8, previous: &[u8]) -> Howdah {
    Howdah::serve(with_keys(howdah.options.clone(), current, previous)).await
}

/// Waits until it has looked after the keys twice more, from the beginning to the end.
async fn looks_twice(howdah: &Howdah) {
    let looks = queries(howdah, "sealing.registered_keys").await;
    eventually("it looks at the keys", async || {
        queries(howdah, "sealing.registered_keys").await > looks + 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_with_different_keys_one_serves() {
    for _ in 0..5 {
        let options = Options::external().await;
        let mut both = [1, 2].map(|number| Howdah::new(with_keys(options.clone(), number, &[])));
        for howdah in &mut both {
            // Time for the other one to look too.
            howdah.spawn("keys.check.before_register=sleep(300)");
        }
        let [one, two] = &mut both;
        let (status, first) = tokio::select! {
            status = one.ended() => (status, true),
            status = two.ended() => (status, false),
        };
        assert!(!status.success());
        let (number, served, refused) = if first { (2, two, one) } else { (1, one, two) };
        let other = 3 - number;
        served.ready().await;
        let log = refused.log();
        assert!(log.contains("SECRET_KEY_INVALID"), "{log}");
        let told = format!("missing {}, given {}", id(number), id(other));
        assert!(log.contains(&told), "{log}");
        assert!(!log.contains(&key(number)) && !log.contains(&key(other)));
        assert_eq!(Metadata::of(served).await.keys().await, [id(number)]);
        assert!(served.stop().await.success());
    }
}

/// In the middle of a rotation one has the new key first, the other one the former.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_orders_do_not_fight() {
    let mut one = Howdah::serve(options(1, &[2]).await).await;
    let metadata = Metadata::of(&one).await;
    one.instance("orders").await;
    let shop = one.database("orders", "shop").await;
    let two = beside(&one, 2, &[1]).await;
    metadata.all_sealed_with(2, 2).await;
    let before = metadata.content().await;
    looks_twice(&one).await;
    looks_twice(&two).await;
    // Each sealing of the same value differs.
    assert_eq!(metadata.content().await, before, "what is sealed stays");
    // The former key seals on, and the newest takes over.
    let other = one.database("orders", "other").await;
    metadata.all_sealed_with(2, 3).await;
    assert_eq!(metadata.keys().await, [id(2), id(1)]);
    for connection in [&shop, &other] {
        still_works(&one, "orders", connection).await;
        assert_eq!(
            two.connection("orders", &connection.database)
                .await
                .password,
            connection.password
        );
    }
    restart(&mut one, 2, &[1]).await;
    metadata.age_key(1).await;
    metadata.only_key_is(2).await;
    restart(&mut one, 2, &[]).await;
    still_works(&one, "orders", &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_use_is_not_forgotten() {
    let mut one = Howdah::serve(options(1, &[2]).await).await;
    let metadata = Metadata::of(&one).await;
    let two = beside(&one, 2, &[1]).await;
    // Not to be forgotten before the process that uses it shows itself again.
    signal(two.pid(), "STOP");
    metadata.age_key(1).await;
    eventually("the key is seen", async || {
        metadata.count("sealing_keys_idle").await == 0
    })
    .await;
    signal(two.pid(), "CONT");
    looks_twice(&two).await;
    assert_eq!(metadata.keys().await, [id(2), id(1)]);
    one.stop().await;
    metadata.age_key(1).await;
    metadata.only_key_is(2).await;
}

/// A process that was frozen while the others rotated its key out.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stored_with_a_forgotten_key() {
    let mut one = Howdah::serve(options(1, &[2]).await).await;
    let metadata = Metadata::of(&one).await;
    one.instance("orders").await;
    let shop = one.database("orders", "shop").await;
    let two = beside(&one, 2, &[1]).await;
    metadata.all_sealed_with(2, 2).await;
    signal(one.pid(), "STOP");
    metadata.age_key(1).await;
    metadata.only_key_is(2).await;
    signal(one.pid(), "CONT");
    let before = metadata.content().await;
    let request = create_instance("second", Default::default());
    let answer = one.instances().await.create_instance(request).await;
    refused(answer, Code::FailedPrecondition, "SECRET_KEY_INVALID");
    let request = create_database("orders", "other");
    let answer = one.databases().await.create_database(request).await;
    refused(answer, Code::FailedPrecondition, "SECRET_KEY_INVALID");
    assert_eq!(metadata.content().await, before);
    // It reads on, and tells what is wrong.
    still_works(&one, "orders", &shop).await;
    eventually("the loss is logged", async || {
        one.log().contains("of this process is not in use any more")
    })
    .await;
    assert_eq!(
        metadata.keys().await,
        [id(2)],
        "it does not come back by itself"
    );
    drop(two);
    restart(&mut one, 2, &[]).await;
    one.database("orders", "other").await;
    assert!(try_connection(&one, "orders", "shop").await.is_ok());
}

/// A transaction that stores a value is still under way when its key could go.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_being_stored_with_is_not_forgotten() {
    let one = Howdah::serve(options(1, &[2]).await).await;
    one.instance("orders").await;
    let metadata = Metadata::of(&one).await;
    let storing = Metadata::of(&one).await;
    storing.execute("begin").await;
    storing.add_roles(1, 1).await;
    let two = beside(&one, 2, &[1]).await;
    drop(one);
    metadata.all_sealed_with(2, 1).await;
    metadata.age_key(1).await;
    looks_twice(&two).await;
    assert_eq!(metadata.keys().await, [id(2), id(1)]);
    storing.execute("commit").await;
    metadata.all_sealed_with(2, 2).await;
    metadata.only_key_is(2).await;
    metadata.roles_open_with(2).await;
}

/// The first round of a rotation was left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_newest_key_says_so() {
    let one = Howdah::serve(options(1, &[]).await).await;
    one.instance("orders").await;
    let shop = one.database("orders", "shop").await;
    let two = beside(&one, 2, &[1]).await;
    Metadata::of(&one).await.all_sealed_with(2, 2).await;
    let answer = try_connection(&one, "orders", "shop").await;
    refused(answer, Code::FailedPrecondition, "SECRET_KEY_INVALID");
    eventually("it is logged", async || {
        one.log()
            .contains("a newer key that this process does not have")
    })
    .await;
    assert_eq!(
        two.connection("orders", "shop").await.password,
        shop.password
    );
}

/// Another process holds the lock for longer than one waits for it: it is frozen.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_check_of_another() {
    let one = Howdah::serve(options(1, &[]).await).await;
    let metadata = Metadata::of(&one).await;
    let lock = "begin; lock table sealing_keys in share row exclusive mode";
    metadata.execute(lock).await;
    let mut two = Howdah::new(one.options.clone());
    two.spawn("");
    eventually("it waits", async || {
        two.log().contains("waiting for the metadata")
    })
    .await;
    metadata.execute("rollback").await;
    two.ready().await;
}
