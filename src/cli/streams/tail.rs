//! `howdah streams subscribe --stream`: prints a durable change stream.

use std::{fs, io, path::Path};

use super::{Printer, Subscribe};
use crate::{
    cli::{exit::Failure, session::Session},
    client,
    pb::v1::{AcknowledgeRequest, SubscribeRequest},
};

/// Prints from the token in the file, or behind what is acknowledged. A batch that was printed
/// and flushed is written down and acknowledged, in this order: after a crash it may be printed
/// again, and is never left out.
pub(super) async fn follow(
    session: &Session,
    subscribe: &Subscribe,
    stream: &str,
) -> Result<(), Failure> {
    let change_stream = session.names.change_stream(stream)?;
    let request = SubscribeRequest {
        change_stream: change_stream.clone(),
        key_columns: subscribe.key_columns.clone(),
        take_over: subscribe.take_over,
        resume_token: match &subscribe.token_file {
            Some(file) => read(file)?,
            None => Vec::new(),
        },
        ..SubscribeRequest::default()
    };
    let mut batches = session.client.subscribe(request).await?;
    let mut printer = Printer::new(session, subscribe);
    while let Some(batch) = batches.message().await.map_err(client::Error::from)? {
        let last = printer.batch(session, &batch)?;
        // With `--count` the batch may have more than was printed.
        if last || batch.changes.is_empty() {
            if last {
                return Ok(());
            }
            continue;
        }
        if let Some(file) = &subscribe.token_file {
            write(file, &batch.resume_token)?;
        }
        let request = AcknowledgeRequest {
            change_stream: change_stream.clone(),
            token: batch.resume_token,
        };
        session.client.acknowledge(request).await?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    match fs::read(file) {
        Ok(token) => Ok(token),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the file whole: a token that is cut in two is none.
fn write(file: &Path, token: &[u8]) -> Result<(), Failure> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    fs::write(beside, token)?;
    fs::rename(beside, file)?;
    Ok(())
}
