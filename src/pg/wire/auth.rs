//! Authentication, as a client.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;

use super::backend;
use super::channel::Channel;
use super::cursor::Cursor;
use crate::pg::{Error, Login};

/// Answers the server's authentication requests until it says Ok.
pub(super) async fn authenticate(channel: &mut Channel, login: &Login) -> Result<(), Error> {
    loop {
        let body = request(channel).await?;
        let mut cursor = Cursor::new(&body);
        match cursor.u32()? {
            0 => return Ok(()),
            3 if !channel.stream().is_private() => {
                return Err(Error::Auth(
                    "the server wants the password in clear text over an open connection".into(),
                ));
            }
            3 => {
                let password = password(login)?.as_bytes();
                channel
                    .send_with(|out| frontend::password_message(password, out))
                    .await?;
            }
            5 => {
                let salt = cursor.u32()?.to_be_bytes();
                let hash = md5_hash(login.user.as_bytes(), password(login)?.as_bytes(), salt);
                channel
                    .send_with(|out| frontend::password_message(hash.as_bytes(), out))
                    .await?;
            }
            10 => scram(channel, login, cursor).await?,
            other => {
                return Err(Error::Auth(format!(
                    "unknown authentication method {other}"
                )));
            }
        }
    }
}

fn password(login: &Login) -> Result<&str, Error> {
    let password = login
        .password
        .as_ref()
        .ok_or_else(|| Error::Auth("the server asks for a password and none is given".into()))?;
    Ok(password.expose_secret())
}

/// The body of the next authentication message.
async fn request(channel: &mut Channel) -> Result<bytes::Bytes, Error> {
    let frame = channel.read().await?;
    match frame.tag {
        b'R' => Ok(frame.body),
        b'E' => Err(Error::Server(Box::new(backend::notice(&frame.body)?))),
        // NegotiateProtocolVersion: the server is older than a feature that
        // we never ask for.
        other => Err(Error::protocol(format!(
            "message {:?} while logging in",
            char::from(other)
        ))),
    }
}

/// SCRAM-SHA-256, bound to the TLS channel where both sides can (RFC 5802,
/// RFC 7677).
async fn scram(channel: &mut Channel, login: &Login, offer: Cursor<'_>) -> Result<(), Error> {
    let (mechanism, binding) = mechanism(offer, channel.stream().channel_binding())?;
    let mut scram = ScramSha256::new(password(login)?.as_bytes(), binding);
    let first = scram.message().to_vec();
    channel
        .send_with(|out| frontend::sasl_initial_response(mechanism, &first, out))
        .await?;

    scram
        .update(&step(channel, 11).await?)
        .map_err(|e| Error::Auth(e.to_string()))?;
    let response = scram.message().to_vec();
    channel
        .send_with(|out| frontend::sasl_response(&response, out))
        .await?;

    // Here the server proves that it knows the verifier.
    scram
        .finish(&step(channel, 12).await?)
        .map_err(|e| Error::Auth(e.to_string()))
}

async fn step(channel: &mut Channel, expected: u32) -> Result<Vec<u8>, Error> {
    let body = request(channel).await?;
    let mut cursor = Cursor::new(&body);
    if cursor.u32()? != expected {
        return Err(Error::protocol("authentication steps out of order"));
    }
    Ok(cursor.rest().to_vec())
}

fn mechanism(
    mut offer: Cursor<'_>,
    binding: Option<&[u8]>,
) -> Result<(&'static str, ChannelBinding), Error> {
    let (mut scram, mut plus) = (false, false);
    loop {
        match offer.cstr()? {
            b"" => break,
            name if name == SCRAM_SHA_256.as_bytes() => scram = true,
            name if name == SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
            _ => {}
        }
    }
    match binding {
        Some(binding) if plus => Ok((
            SCRAM_SHA_256_PLUS,
            ChannelBinding::tls_server_end_point(binding.to_vec()),
        )),
        // "We could, but you did not offer it": if somebody cut the offer, the
        // server sees it here.
        Some(_) if scram => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if scram => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(Error::Auth(
            "the server offers no sasl mechanism that we know".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_mechanism_is_taken() {
        let both = Cursor::new(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        assert_eq!(mechanism(both, Some(b"x")).unwrap().0, SCRAM_SHA_256_PLUS);
        assert_eq!(mechanism(both, None).unwrap().0, SCRAM_SHA_256);
        let plain = Cursor::new(b"SCRAM-SHA-256\0\0");
        assert_eq!(mechanism(plain, Some(b"x")).unwrap().0, SCRAM_SHA_256);
        assert!(mechanism(Cursor::new(b"OAUTHBEARER\0\0"), None).is_err());
        assert!(mechanism(Cursor::new(b"SCRAM-SHA-256"), None).is_err());
    }
}
