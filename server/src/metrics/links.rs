//! The connections between nodes: what waits for a peer, and what peers ask of this node.

use cube_replication::transport::Lane;

use super::page::{Family, Labels, Page, Written, bytes, family, flag, number, seconds, whole};
use crate::peer::{InboundStatus, LaneStatus, PeerStatus};

pub(super) fn write(
    page: &mut Page<'_>,
    peers: &[(String, PeerStatus)],
    inbound: &[(String, InboundStatus)],
) -> Written {
    let lanes: Vec<(Labels, &LaneStatus)> = peers
        .iter()
        .flat_map(|(peer, status)| {
            let lanes = [(Lane::Foreground, &status.foreground), (Lane::Background, &status.background)];
            lanes.map(|(lane, status)| (labels(peer, lane), status))
        })
        .collect();
    let gauge = |figure: fn(&LaneStatus) -> f64| lanes.iter().map(move |(labels, lane)| (labels.clone(), figure(lane)));
    let counter =
        |figure: fn(&LaneStatus) -> u64| lanes.iter().map(move |(labels, lane)| (labels.clone(), figure(lane)));
    page.gauge(
        family("cube_peer_connected", "Whether there is a connection to a peer, by lane"),
        gauge(|lane| flag(lane.connection.is_some())),
    )?;
    page.counter(
        family("cube_peer_reconnects", "Connections to a peer after the first one"),
        counter(|lane| lane.reconnects),
    )?;
    page.gauge(
        family("cube_peer_queue", "Requests that wait to be sent to a peer"),
        gauge(|lane| number(lane.queued)),
    )?;
    page.gauge(
        bytes("cube_peer_queue", "Bytes of requests that wait to be sent to a peer"),
        gauge(|lane| number(lane.queued_bytes)),
    )?;
    page.gauge(
        family("cube_peer_requests_in_flight", "Requests that a peer has not answered yet"),
        gauge(|lane| number(lane.in_flight)),
    )?;
    page.counter(family("cube_peer_requests", "Requests sent to a peer"), counter(|lane| lane.requests))?;
    page.counter(family("cube_peer_frames", "Frames that carried them"), counter(|lane| lane.frames))?;
    let pings = lanes.iter().filter_map(|(labels, lane)| {
        let rtt_us = lane.connection.as_ref()?.ping_rtt_us?;
        Some((labels.clone(), whole(rtt_us) / 1e6))
    });
    page.gauge(seconds("cube_peer_ping", "How long the last ping of a peer took"), pings)?;
    write_inbound(page, inbound)
}

fn write_inbound(page: &mut Page<'_>, inbound: &[(String, InboundStatus)]) -> Written {
    let named = |(peer, status): &(String, InboundStatus)| labels(peer, status.lane);
    let mut gauge = |family: Family<'_>, figure: fn(&InboundStatus) -> usize| {
        page.gauge(family, inbound.iter().map(|lane| (named(lane), number(figure(&lane.1)))))
    };
    gauge(family("cube_inbound_requests_in_flight", "Requests of a peer that are under way on this node"), |lane| {
        lane.in_flight
    })?;
    gauge(family("cube_inbound_replies_waiting", "Replies that wait to be sent"), |lane| lane.replies_waiting)?;
    gauge(bytes("cube_inbound_replies_waiting", "Bytes of replies that wait to be sent"), |lane| {
        lane.reply_bytes_waiting
    })?;
    let mut counter = |family: Family<'_>, figure: fn(&InboundStatus) -> u64| {
        page.counter(family, inbound.iter().map(|lane| (named(lane), figure(&lane.1))))
    };
    counter(
        family(
            "cube_inbound_requests_late",
            "Requests of a peer dropped because their time was over, on this connection",
        ),
        |lane| lane.dropped_late,
    )?;
    counter(
        family(
            "cube_inbound_requests_refused",
            "Requests of a peer refused because too many were under way, on this connection",
        ),
        |lane| lane.overloaded,
    )
}

fn labels(peer: &str, lane: Lane) -> Labels {
    let lane = match lane {
        Lane::Foreground => "foreground",
        Lane::Background => "background",
    };
    vec![("peer", peer.to_owned()), ("lane", lane.to_owned())]
}
