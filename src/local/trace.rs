//! Traces: the requests of a session and their times, as a file of the tracing tool Perfetto (`.pftrace`).
//!
//! In Perfetto, a track is a row of the display, and a slice is a period of time on it. Each request has a track below
//! that of its model or sampler, with one slice for its waiting and one for its work. The protobuf messages in this
//! file hold only those fields of Perfetto's schema that are needed here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prost::Message;

/// Number of requests remembered for each session.
const MAX_SPANS: usize = 8192;

#[derive(Clone, PartialEq, Message)]
struct TraceFile {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<Packet>,
}

#[derive(Clone, PartialEq, Message)]
struct Packet {
    /// In nanoseconds.
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    track_event: Option<TrackEvent>,
    #[prost(message, optional, tag = "60")]
    track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackEvent {
    /// 1 begins a slice, 2 ends it.
    #[prost(int32, optional, tag = "9")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    track_uuid: Option<u64>,
    #[prost(string, optional, tag = "23")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "5")]
    parent_uuid: Option<u64>,
}

/// The requests of a session.
#[derive(Debug, Default)]
pub(super) struct Trace {
    spans: Mutex<VecDeque<Arc<Span>>>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Span {
    verb: &'static str,
    /// Id of the model or sampler.
    owner: String,
    submitted: SystemTime,
    started: OnceLock<SystemTime>,
    ended: OnceLock<SystemTime>,
}

impl Span {
    /// Records the start of the work. Later calls have no effect.
    pub(super) fn start(&self) {
        self.started.get_or_init(SystemTime::now);
    }

    /// Records the end of the request, even if its work never started.
    pub(super) fn end(&self) {
        self.ended.get_or_init(SystemTime::now);
    }
}

impl Trace {
    /// Adds a request submitted now.
    pub(super) fn begin(&self, verb: &'static str, owner: &str) -> Arc<Span> {
        let span = Arc::new(Span {
            verb,
            owner: owner.into(),
            submitted: SystemTime::now(),
            started: OnceLock::new(),
            ended: OnceLock::new(),
        });
        let mut spans = self.spans.lock();
        spans.push_back(span.clone());
        if MAX_SPANS < spans.len() {
            spans.pop_front();
        }
        span
    }

    /// Encodes the file. Unfinished requests extend to `now`.
    pub(super) fn encode(&self, now: SystemTime) -> Vec<u8> {
        let spans: Vec<Arc<Span>> = self.spans.lock().iter().cloned().collect();
        let mut packet = Vec::new();
        let mut owners: HashMap<String, u64> = HashMap::new();
        let mut tracks = 0;
        let mut track = |packet: &mut Vec<Packet>, name: &str, parent_uuid| {
            tracks += 1;
            let descriptor = TrackDescriptor { uuid: Some(tracks), name: Some(name.into()), parent_uuid };
            packet.push(Packet { track_descriptor: Some(descriptor), ..Packet::default() });
            tracks
        };
        for span in spans {
            let owner_track = match owners.get(&span.owner) {
                Some(it) => *it,
                None => {
                    let uuid = track(&mut packet, &span.owner, None);
                    owners.insert(span.owner.clone(), uuid);
                    uuid
                }
            };
            // Use a track for each request, because the waiting times of one model's requests overlap. Perfetto groups
            // tracks of the same name.
            let uuid = track(&mut packet, span.verb, Some(owner_track));
            let end = span.ended.get().copied().unwrap_or(now);
            let started = span.started.get().copied().unwrap_or(end).min(end);
            slice(&mut packet, uuid, "waiting", span.submitted, started);
            if span.started.get().is_some() {
                slice(&mut packet, uuid, span.verb, started, end);
            }
        }
        for packet in &mut packet {
            packet.trusted_packet_sequence_id = Some(1);
        }
        TraceFile { packet }.encode_to_vec()
    }
}

fn slice(packet: &mut Vec<Packet>, track: u64, name: &str, from: SystemTime, to: SystemTime) {
    let nanos = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    for (kind, at, name) in [(1, from, Some(name.to_string())), (2, to.max(from), None)] {
        let event = TrackEvent { kind: Some(kind), track_uuid: Some(track), name };
        packet.push(Packet { timestamp: Some(nanos(at)), track_event: Some(event), ..Packet::default() });
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_track_below_its_model_with_its_waiting_and_its_work() {
        let trace = Trace::default();
        let done = trace.begin("forward_backward", "s:train:0");
        let waiting = trace.begin("optim_step", "s:train:0");
        done.start();
        done.end();
        let file = TraceFile::decode(&trace.encode(SystemTime::now())[..]).expect("a trace");
        let tracks: Vec<(Option<u64>, &str)> = file
            .packet
            .iter()
            .filter_map(|it| it.track_descriptor.as_ref())
            .map(|it| (it.parent_uuid, it.name.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(tracks, [(None, "s:train:0"), (Some(1), "forward_backward"), (Some(1), "optim_step")]);
        let events: Vec<(u64, i32, &str)> = file
            .packet
            .iter()
            .filter_map(|it| it.track_event.as_ref())
            .map(|event| {
                let name = event.name.as_deref().unwrap_or_default();
                (event.track_uuid.unwrap_or(0), event.kind.unwrap_or(0), name)
            })
            .collect();
        let expected = [
            (2, 1, "waiting"),
            (2, 2, ""),
            (2, 1, "forward_backward"),
            (2, 2, ""),
            (3, 1, "waiting"),
            (3, 2, ""),
        ];
        assert_eq!(events, expected);
        let times: Vec<u64> = file.packet.iter().filter_map(|it| it.timestamp).collect();
        assert!(times[..4].is_sorted() && times[4..].is_sorted() && 0 < times[0], "{times:?}");
        assert!(waiting.started.get().is_none());
    }

    #[test]
    fn only_the_latest_requests_of_a_long_session_are_kept() {
        let trace = Trace::default();
        (0..MAX_SPANS + 5).for_each(|_| trace.begin("sample", "s").end());
        let file = TraceFile::decode(&trace.encode(SystemTime::now())[..]).expect("a trace");
        assert_eq!(file.packet.iter().filter(|it| it.track_descriptor.is_some()).count(), MAX_SPANS + 1);
    }
}
