package api

import "hubcap/proxy/bypass"

// Page is which part of a long list is asked for.
type Page struct {
	After int `query:"after" minimum:"0" doc:"next of the page before"`
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Rows of this page"`
}

// Clients is who has asked for content.
type Clients struct {
	Clients []Client `json:"clients" doc:"By address and family"`
	Next    int      `json:"next,omitempty" doc:"after of the next page; absent on the last one"`
}

// RequestsQuery is which of the last requests are asked for.
type RequestsQuery struct {
	After  int64  `query:"after" minimum:"-1" default:"-1" doc:"Requests with a higher id, the earliest first; the last ones when absent"`
	Limit  int    `query:"limit" minimum:"1" maximum:"2000" default:"100"`
	Client string `query:"client" maxLength:"64" doc:"Address, or network such as 10.1.0.0/16"`
	Result string `query:"result" maxLength:"32" doc:"What the answer was made from: hit, confirmed, stale, miss, joined, uncached, forwarded, local, not_found, refused, limited or failed"`
	Image  string `query:"image" maxLength:"512" doc:"Part of the name, as in docker.io/library/alpine:latest"`
}

// Requests is some of the last 2,000 requests of clients, health checks left out.
type Requests struct {
	Requests []Request `json:"requests" doc:"In the order in which they ended"`
}

// Bypasses is who has gone around the box, as far as it can be told.
type Bypasses struct {
	Suspicions []bypass.Suspicion `json:"suspicions" doc:"Answers after which a client may have gone to the registry itself: those not decided, and the last 256 that are; the latest first"`
	Foreign    []Foreign          `json:"foreign" doc:"Pulls that used up a pull limit of this box and that it did not make"`
}

// Foreign is pulls at a registry that the box did not make.
type Foreign struct {
	Upstream string `json:"upstream"`
	Identity string `json:"identity"`
	Pulls    int64  `json:"pulls" doc:"Since the start, at least"`
}

// The kinds of events.
const (
	EventEviction = "eviction"
	EventFill     = "fill"
	EventJob      = "job"
	EventProblem  = "problem"
	EventTag      = "tag"
	EventUpstream = "upstream"
)

// FillEnded is the state of a fill that does not run any more, in its last event.
const FillEnded = "ended"

// EventsQuery is which events are asked for.
type EventsQuery struct {
	LastEventID int64    `header:"Last-Event-ID" doc:"The last event that was received; those after it that are kept come first"`
	Kind        []string `query:"kind" enum:"eviction,fill,job,problem,tag,upstream" doc:"Kinds of events, separated by commas; all when absent"`
}

// ProblemEvent is a problem that has begun or ended.
type ProblemEvent struct {
	State   string  `json:"state" enum:"begun,ended"`
	Problem Problem `json:"problem"`
}

// EvictionEvent is what was evicted to make room since the event before, within a
// second or so.
type EvictionEvent struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	UnusedS int64 `json:"unused_s" doc:"For how long the last of them had not been used"`
}

// UpstreamEvent is a host behind an upstream whose circuit has changed.
type UpstreamEvent struct {
	Upstream string `json:"upstream"`
	Host     Host   `json:"host"`
}
