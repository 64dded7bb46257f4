//! Frames as they are on the wire. Whoever changes one of these changes what nodes of two releases say to each other.

use cube_proto::peer::v1 as wire;
use prost::Message;

fn hex(frame: &wire::Frame) -> String {
    frame.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_of_the_first_protocol_stay_as_they_are() {
    let identity = wire::Identity {
        cluster: vec![0xc1; 16].into(),
        node: 2,
        name: "node-2".into(),
        instance: vec![0x1d; 16].into(),
        protocol_min: 1,
        protocol_max: 3,
        features: 5,
    };
    let hello = wire::Hello { identity: Some(identity), expected_node: 7, lane: wire::Lane::Background.into() };
    let message = wire::Message { id: 300, body: vec![1, 2, 0xff].into(), time_left_ms: 2_000 };
    let refused = wire::Refused { reason: wire::RefusalReason::WrongNode.into(), detail: "no".into() };
    let nothing = wire::Frame::default();
    let frames = [
        (wire::Frame { hello: Some(hello), ..nothing.clone() }, HELLO),
        (wire::Frame { refused: Some(refused), ..nothing.clone() }, "1206080412026e6f"),
        (wire::Frame { messages: vec![message.clone(), message], ..nothing.clone() }, MESSAGES),
        (wire::Frame { ping: Some(wire::Ping { number: 4, wall_ms: 9 }), ..nothing.clone() }, "220408041009"),
        (
            wire::Frame { pong: Some(wire::Pong { number: 4, asked_wall_ms: 9, wall_ms: 8 }), ..nothing.clone() },
            "2a06080410091808",
        ),
        (wire::Frame { goodbye: Some(wire::Goodbye { reason: "bye".into() }), ..nothing }, "32050a03627965"),
    ];
    for (frame, bytes) in frames {
        assert_eq!(hex(&frame), bytes, "{frame:?}");
    }
}

const HELLO: &str = "0a3a0a340a10c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c110021a066e6f64652d3222101d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d\
                     28013003380510071802";
const MESSAGES: &str = "1a0b08ac0212030102ff18d00f1a0b08ac0212030102ff18d00f";
