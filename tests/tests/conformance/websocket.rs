//! WebSocket by tungstenite: text, binary, large and empty messages, pings, and the closing handshake (RFC 6455).

use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{
    pair::{
        side::Side,
        wire::{PATIENCE, Wire},
    },
    place::{Place, listen, occupy},
};

/// Serves an echo at a side's port `ws`.
pub fn serve(side: &Side) {
    let listener = listen(side, "ws");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    // Pings and the end are answered by the library.
                    if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Everything through one proxy, in words.
async fn talk(side: &Side) -> Vec<String> {
    let stream: TcpStream = Wire::connect(side.address("main"), None).await.expect("a connection");
    let (mut socket, response) = client_async("ws://any.test/ws", stream).await.expect("the upgrade");
    let mut told = vec![format!("{} {:?}", response.status(), response.headers().get("upgrade"))];
    let large: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
    assert_eq!(large.len(), 1 << 20);
    for message in [
        Message::text("hello, \u{fc}"),
        Message::text(""),
        Message::binary(vec![0, 255, 13, 10]),
        Message::Ping(b"are you there"[..].into()),
        Message::binary(large),
        Message::text("x".repeat(1 << 20)),
        Message::Ping(bytes::Bytes::new()),
    ] {
        socket.send(message.clone()).await.expect("the connection takes a message");
        let answer = next(&mut socket).await;
        let expected = match &message {
            Message::Ping(payload) => Message::Pong(payload.clone()),
            other => other.clone(),
        };
        assert!(answer == Ok(expected), "{:?}: a message of {} bytes comes back otherwise", side.which, message.len());
        told.push(format!("{} bytes", message.len()));
    }
    // Many at once, one after the other.
    for number in 0..100 {
        socket.feed(Message::text(format!("number {number}"))).await.expect("the connection takes a message");
    }
    socket.flush().await.expect("the connection takes messages");
    for number in 0..100 {
        assert_eq!(next(&mut socket).await, Ok(Message::text(format!("number {number}"))));
    }
    let goodbye = CloseFrame { code: CloseCode::Away, reason: "that was all".into() };
    socket.close(Some(goodbye)).await.expect("the end is told");
    told.push(format!("{:?}", next(&mut socket).await));
    told.push(format!("{:?}", next(&mut socket).await));
    told
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Result<Message, String> {
    match timeout(PATIENCE, socket.next()).await {
        Ok(Some(Ok(message))) => Ok(message),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Err("the end".to_owned()),
        Err(_) => Err("nothing".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_by_a_real_client() {
    let place = Place::start("clients", |side| {
        serve(side);
        occupy(side, "grpc");
    })
    .await;
    let [envoy, weir] = place.sides();
    let (theirs, ours) = tokio::join!(talk(envoy), talk(weir));
    assert_eq!(ours, theirs, "weir's, Envoy's");
    assert!(ours[ours.len() - 2].contains("that was all"), "{ours:?}");
}
