// Package api is what the API at /api/v1 answers and what it is asked: plain
// structs, for its handlers and for the programs that call it. Times are RFC 3339,
// sizes are bytes, fields that end in _s are seconds. What a room returns in that
// form is handed out as it is; the names here are then aliases.
//
// Files: api.go (the state of the box), traffic.go (clients, requests, events),
// error.go.
package api

import (
	"time"

	"hubcap/metrics/history"
	"hubcap/proxy/problems"
)

type (
	// Problem is something that is wrong now.
	Problem = problems.Problem
	// Point is what happened in one step of the history.
	Point = history.Point
)

// Status is how the box is, at one look.
type Status struct {
	Box      string       `json:"box" doc:"Name of the machine"`
	Version  string       `json:"version"`
	Since    time.Time    `json:"since" doc:"Start of the process"`
	State    string       `json:"state" enum:"ok,degraded,critical" doc:"ok: there is no problem; degraded: there are warnings; critical: clients fail, or will soon"`
	Offline  bool         `json:"offline" doc:"No upstream is asked"`
	Problems []Problem    `json:"problems" doc:"The critical ones first"`
	Today    Today        `json:"today"`
	Limits   []Limit      `json:"limits" doc:"Pull limits that registries have stated"`
	Disk     Disk         `json:"disk"`
	Clients  ClientCounts `json:"clients"`
	Fills    FillCounts   `json:"fills"`
}

// The values of Status.State.
const (
	StateOK       = "ok"
	StateDegraded = "degraded"
	StateCritical = "critical"
)

// Today is what was answered since midnight UTC.
type Today struct {
	Requests   int64   `json:"requests" doc:"For manifests and blobs that are there"`
	HitRatio   float64 `json:"hit_ratio" doc:"Share of them that needed no download of their own, 0 to 1"`
	BytesOut   int64   `json:"bytes_out" doc:"Sent to clients"`
	BytesIn    int64   `json:"bytes_in" doc:"Received from upstreams"`
	BytesSaved int64   `json:"bytes_saved" doc:"Sent to clients and not received for it; at least 0"`
	Joined     int64   `json:"joined" doc:"Requests that read along with the download of another one"`
	Stale      int64   `json:"stale" doc:"Requests that were answered from the cache because the upstream failed"`
}

// Limit is a pull limit as a registry last stated it.
type Limit struct {
	Upstream     string    `json:"upstream"`
	Identity     string    `json:"identity" doc:"anonymous, credentials (the box's) or client (a client's own token)"`
	Limit        int       `json:"limit" doc:"Pulls per window; -1 when not stated"`
	Remaining    int       `json:"remaining" doc:"Pulls that are left; -1 when not stated"`
	WindowS      int64     `json:"window_s"`
	Source       string    `json:"source,omitempty" doc:"Address or account whose pulls are counted, as the registry calls it"`
	Stated       time.Time `json:"stated"`
	LastsS       *int64    `json:"lasts_s,omitempty" doc:"Until no pull is left, at the rate of the last hour; absent when they do not decrease"`
	ForeignPulls int64     `json:"foreign_pulls" doc:"Pulls since the start that count and that this box did not make; at least"`
}

// Disk is how the disk is used.
type Disk struct {
	Used       int64 `json:"used" doc:"Bytes of the budget that are in use, partial downloads and the index included"`
	Budget     int64 `json:"budget" doc:"Bytes that the cache may use"`
	Pinned     int64 `json:"pinned" doc:"Bytes of what is never evicted to make room"`
	Objects    int   `json:"objects" doc:"Manifests and blobs that are held"`
	Filesystem int64 `json:"filesystem" doc:"Size of the file system; 0 while it cannot be read"`
	Free       int64 `json:"free" doc:"Bytes of the file system that hubcap may still write"`
}

// ClientCounts is how many addresses have asked for content.
type ClientCounts struct {
	Hour    int            `json:"hour"`
	Day     int            `json:"day"`
	Week    int            `json:"week"`
	LeftDay map[string]int `json:"left_day" doc:"Addresses that have probably gone to a registry themselves within a day, by family"`
}

// FillCounts is how many downloads there are.
type FillCounts struct {
	Running int `json:"running" doc:"Those that wait included"`
	Waiting int `json:"waiting" doc:"For their turn"`
}

// Problems is what is wrong now.
type Problems struct {
	Problems []Problem `json:"problems" doc:"The critical ones first"`
}

// Fills is the downloads that run now.
type Fills struct {
	Fills []Fill `json:"fills" doc:"The oldest first"`
}

// Fill is a download into the cache, with any number of readers.
type Fill struct {
	Digest     string    `json:"digest"`
	Upstream   string    `json:"upstream,omitempty" doc:"Registry that was asked first"`
	Repository string    `json:"repository,omitempty" doc:"Of the request that began it, for content that not everybody may see"`
	State      string    `json:"state" doc:"waiting, asking, filling, committing or stopping"`
	Size       int64     `json:"size" doc:"Of the whole; -1 while unknown"`
	Have       int64     `json:"have" doc:"Bytes that are there"`
	Rate       int64     `json:"rate" doc:"Bytes a second, over the last seconds"`
	Readers    int       `json:"readers" doc:"Clients that read it"`
	Writers    int       `json:"writers" doc:"Connections that bring it"`
	LeftS      *int64    `json:"left_s,omitempty" doc:"Until the end at that rate; absent when that is not known"`
	Since      time.Time `json:"since"`
}

// Upstreams is the registries that are asked.
type Upstreams struct {
	Upstreams []Upstream `json:"upstreams" doc:"By name"`
}

// Upstream is a registry that is asked.
type Upstream struct {
	Host       string     `json:"host"`
	Configured string     `json:"configured" doc:"Host or pattern that configures it"`
	URL        string     `json:"url"`
	Offline    bool       `json:"offline" doc:"No requests are sent"`
	Identities []Identity `json:"identities" doc:"Under which it is asked"`
	Hosts      []Host     `json:"hosts" doc:"That have been asked lately"`
}

// Identity is one under which an upstream is asked.
type Identity struct {
	Identity     string       `json:"identity" doc:"anonymous, credentials (the box's) or client (a client's own token)"`
	Repositories []string     `json:"repositories,omitempty" doc:"Globs of the repositories that it is for; absent for all others"`
	Limit        *Limit       `json:"limit,omitempty" doc:"Absent while none was stated"`
	Credentials  *Credentials `json:"credentials,omitempty"`
}

// Credentials is how the box's credentials for an upstream do. They themselves
// are not shown.
type Credentials struct {
	Kind     string     `json:"kind" doc:"Where they come from; empty for a configured user name and password"`
	Usable   bool       `json:"usable" doc:"They are shown to the registry at present"`
	Refused  bool       `json:"refused" doc:"They are held back, because the registry has lately refused them"`
	Failure  string     `json:"failure,omitempty" doc:"Of the last attempt to get them from where they come from"`
	Accepted *time.Time `json:"accepted,omitempty" doc:"When the registry last accepted them"`
	Ends     *time.Time `json:"ends,omitempty" doc:"When those at hand end"`
}

// Host is a host behind an upstream.
type Host struct {
	Host         string     `json:"host" doc:"With its port"`
	Role         string     `json:"role" doc:"registry, token (service) or redirect (target, such as a CDN)"`
	Circuit      string     `json:"circuit" enum:"closed,half_open,open" doc:"open: it fails and is not asked for a while"`
	Since        *time.Time `json:"since,omitempty" doc:"Of the circuit's state"`
	Failure      string     `json:"failure,omitempty" doc:"Of the last request that failed"`
	LastFailure  *time.Time `json:"last_failure,omitempty"`
	LimitedUntil *time.Time `json:"limited_until,omitempty" doc:"A 429 keeps requests from it until then"`
	Addresses    []string   `json:"addresses" doc:"At which it was last connected"`
}

// Capacity is what a cache of another size would answer.
type Capacity struct {
	Known  bool    `json:"known" doc:"False while more is to be seen, or while the estimate for the present size differs from what was measured"`
	Budget int64   `json:"budget"`
	Scales []Scale `json:"scales" doc:"By size; empty while not known"`
}

// Scale is a size that the cache might have.
type Scale struct {
	Scale    float64 `json:"scale" doc:"As a multiple of the present size"`
	Size     int64   `json:"size"`
	Requests float64 `json:"requests" doc:"Share of the requests that it would answer, 0 to 1"`
	Bytes    float64 `json:"bytes" doc:"Share of their bytes"`
}

// HistoryQuery is which points of the series are asked for.
type HistoryQuery struct {
	Since time.Time `query:"since" doc:"Points that begin then or later; all when absent"`
	Step  string    `query:"step" enum:"5m,1d" default:"5m" doc:"5m: the last 24 hours; 1d: the last 400 days"`
}

// History is the box's own series.
type History struct {
	StepS  int64   `json:"step_s"`
	Points []Point `json:"points" doc:"In order; the last one is not over"`
}

// LoginRequest is what a login link is to be for.
type LoginRequest struct {
	View bool `json:"view,omitempty" doc:"The browser may look and change nothing"`
}

// Login is a link by which a browser logs in, once.
type Login struct {
	URL     string    `json:"url" doc:"With the address at which the box listens"`
	Path    string    `json:"path" doc:"The link without the address"`
	Expires time.Time `json:"expires"`
}
