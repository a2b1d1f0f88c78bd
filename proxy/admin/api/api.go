// Package api is what the API at /api/v1 answers and what it is asked: plain
// structs, for its handlers and for the programs that call it. Times are RFC 3339,
// sizes are bytes, fields that end in _s are seconds. What a room returns in that
// form is handed out as it is; the names here are then aliases.
//
// Files: api.go (the state of the box), traffic.go (clients, requests, events), images.go (tags,
// pins, jobs, bundles, outages), error.go.
package api

import (
	"time"

	"hubcap/cache"
	"hubcap/metrics/history"
	"hubcap/proxy/bundle"
	"hubcap/proxy/bypass"
	"hubcap/proxy/evict"
	"hubcap/proxy/freshness"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/outage"
	"hubcap/proxy/pins"
	"hubcap/proxy/problems"
	"hubcap/proxy/purge"
	"hubcap/proxy/requests"
	"hubcap/proxy/site"
	"hubcap/proxy/tier"
	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/credentials"
	"hubcap/proxy/warm"
)

type (
	// Client is what the clients of one family at one address have done, since the start
	// or since the address was last forgotten.
	Client = bypass.Client
	// Credentials is how the box's credentials for an upstream do.
	Credentials = credentials.Status
	// Eviction is what was evicted to make room, or would be.
	Eviction = evict.Result
	// Estimate is what fetching some images would take.
	Estimate = warm.Estimate
	// Fill is a download into the cache, with any number of readers.
	Fill = cache.FillStatus
	// Gap is something that is missing of an image.
	Gap = images.Gap
	// Host is a host behind an upstream.
	Host = upstream.HostStatus
	// Image is a tag or digest that clients have pulled, with its platforms.
	Image = images.Image
	// Images is a page of the images that clients have pulled.
	Images = images.Page
	// Imported is what came of a bundle.
	Imported = bundle.Imported
	// ImportQuery says how a bundle is taken in.
	ImportQuery = bundle.Intake
	// Job is long work.
	Job = jobs.Job
	// Line is one digest in the history of a tag.
	Line = freshness.Line
	// Node is a manifest or blob of an image, with what it names.
	Node = images.Node
	// Offline is whether the box asks registries.
	Offline = outage.OfflineStatus
	// Outage is which images would survive an outage.
	Outage = outage.Report
	// OutageSummary is how many images would survive an outage.
	OutageSummary = images.Summary
	// Pin is a pinned image.
	Pin = pins.Status
	// PinCost is what a pin takes.
	PinCost = pins.Cost
	// Platform is one of the images that an index has, or the image itself.
	Platform = images.Platform
	// Problem is something that is wrong now.
	Problem = problems.Problem
	// Purged is what went, or would go.
	Purged = purge.Result
	// PurgeRequest says what is to go.
	PurgeRequest = purge.Request
	// Repair is what a repair fetches.
	Repair = outage.Repair
	// Request is a request of a client that was answered.
	Request = requests.Request
	// Schedule is images that are fetched again and again.
	Schedule = warm.Schedule
	// SiteBox is a box that shares what it holds.
	SiteBox = site.Box
	// Tag is what a tag means now.
	Tag = freshness.TagStatus
	// Tier is the S3 bucket behind the boxes.
	Tier = tier.Status
)

// Status is how the box is, at one look.
type Status struct {
	Box      string        `json:"box" doc:"Name of the machine"`
	Version  string        `json:"version"`
	Since    time.Time     `json:"since" doc:"Start of the process"`
	State    string        `json:"state" enum:"ok,degraded,critical" doc:"ok: there is no problem; degraded: there are warnings; critical: clients fail, or will soon"`
	Offline  bool          `json:"offline" doc:"No upstream is asked"`
	Problems []Problem     `json:"problems" doc:"The critical ones first"`
	Today    Today         `json:"today"`
	Limits   []Limit       `json:"limits" doc:"Pull limits that registries have stated"`
	Outage   OutageSummary `json:"outage" doc:"As of the last look, every five minutes"`
	Disk     Disk          `json:"disk"`
	Clients  ClientCounts  `json:"clients"`
	Fills    FillCounts    `json:"fills"`
	Site     []SiteBox     `json:"site,omitempty" doc:"The boxes of HUBCAP_SITE, and those of HUBCAP_SISTERS after them"`
	Tier     *Tier         `json:"tier,omitempty" doc:"The S3 bucket behind the boxes, asked before registries; absent without one"`
	Boxes    []OtherBox    `json:"boxes,omitempty" doc:"Other hubcaps, as HUBCAP_BOXES names them"`
}

// OtherBox is another hubcap, for links to it.
type OtherBox struct {
	Name string `json:"name"`
	URL  string `json:"url" doc:"Of its admin port"`
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
	Used        int64  `json:"used" doc:"Bytes of the budget that are in use, partial downloads and the index included"`
	Budget      int64  `json:"budget" doc:"Bytes that the cache may use"`
	Guests      int64  `json:"guests" doc:"Bytes of copies of what other boxes of the site own; they use the room that the rest leaves"`
	Pinned      int64  `json:"pinned" doc:"Bytes of what is never evicted to make room"`
	Objects     int    `json:"objects" doc:"Manifests and blobs that are held"`
	LastUnusedS *int64 `json:"last_unused_s,omitempty" doc:"For how long what was evicted last had not been used; absent while nothing was since the start"`
	Filesystem  int64  `json:"filesystem" doc:"Size of the file system; 0 while it cannot be read"`
	Free        int64  `json:"free" doc:"Bytes of the file system that hubcap may still write"`
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

// Capacity is what a cache of another size would answer.
type Capacity struct {
	Known  bool    `json:"known" doc:"False while fewer bytes were requested than the cache holds, or while no estimate comes within 5 points of what was measured"`
	Budget int64   `json:"budget"`
	Scales []Scale `json:"scales" doc:"By size; empty while not known"`
}

// Scale is a size that the cache might have.
type Scale struct {
	Scale    float64 `json:"scale" doc:"As a multiple of the present size"`
	Size     int64   `json:"size"`
	Requests float64 `json:"requests" doc:"Share of the requests for what it would have held before the pull began, 0 to 1"`
	Bytes    float64 `json:"bytes" doc:"Share of their bytes"`
	Week     *int64  `json:"week_bytes,omitempty" doc:"Bytes a week that it would fetch less than the present one; negative for more; absent on the first day"`
}

// HistoryQuery is which points of the series are asked for.
type HistoryQuery struct {
	Since time.Time `query:"since" doc:"Points that begin then or later; all when absent"`
	Step  string    `query:"step" enum:"5m,1d" default:"5m" doc:"5m: the last 24 hours; 1d: the last 400 days"`
}

// History is the box's own series.
type History struct {
	StepS  int64           `json:"step_s"`
	Points []history.Point `json:"points" doc:"In order; the last one is not over. Of the step: client_bytes, upstream_bytes, saved_bytes, requests, cached, joined, stale, hit_ratio. At its end: pulls_left/<upstream>/<identity>, outage_images, outage_ready, outage_missing_bytes, cache_bytes, cache_budget_bytes. A series without a value is not there"`
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
