package api

import (
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/bundle"
	"hubcap/proxy/pins"
)

// RefQuery names an image.
type RefQuery struct {
	Ref string `query:"ref" required:"true" minLength:"1" maxLength:"600" doc:"As docker writes it: nginx:1.27, ghcr.io/acme/app@sha256:…"`
}

// TagHistory is what a tag has named, and what it means now.
type TagHistory struct {
	Tag   Tag    `json:"tag"`
	Lines []Line `json:"lines" doc:"The latest first, at most 22"`
}

// KeptTags is the tags that do not follow their registry.
type KeptTags struct {
	Tags []Tag `json:"tags" doc:"Frozen or cooling, by name"`
}

// FreezeRequest has a tag answered with one digest until it is thawed.
type FreezeRequest struct {
	Ref    string        `json:"ref" minLength:"1" maxLength:"600"`
	Digest digest.Digest `json:"digest,omitempty" maxLength:"200" doc:"The present one when absent"`
	Until  time.Time     `json:"until,omitzero" doc:"When the freeze ends by itself"`
	Note   string        `json:"note,omitempty" maxLength:"500"`
	DryRun bool          `json:"dry_run,omitempty" doc:"Say what would happen, and change nothing"`
}

// RollbackRequest freezes a tag to a digest that it named before.
type RollbackRequest struct {
	Ref    string    `json:"ref" minLength:"1" maxLength:"600"`
	To     string    `json:"to,omitempty" maxLength:"200" doc:"A digest of the tag's history, or its beginning; the last one that clients were given before the present one when absent"`
	Until  time.Time `json:"until,omitzero" doc:"When the freeze ends by itself"`
	Note   string    `json:"note,omitempty" maxLength:"500"`
	DryRun bool      `json:"dry_run,omitempty" doc:"Say what would happen, and change nothing"`
}

// TagRequest is about a tag.
type TagRequest struct {
	Ref    string `json:"ref" minLength:"1" maxLength:"600"`
	DryRun bool   `json:"dry_run,omitempty" doc:"Say what would happen, and change nothing"`
}

// TagChange is what an order about a tag does.
type TagChange struct {
	Tag    Tag           `json:"tag" doc:"As it is now"`
	Digest digest.Digest `json:"digest,omitempty" doc:"That clients are given once it is done"`
	Cost   *Cost         `json:"cost,omitempty" doc:"In a dry run"`
	Job    *Job          `json:"job,omitempty" doc:"It is done when this job ends, which fetches what is missing"`
}

// Cost is what an action takes.
type Cost struct {
	Objects int   `json:"objects" doc:"Manifests and blobs that are fetched"`
	Bytes   int64 `json:"bytes" doc:"That are fetched"`
	Held    int64 `json:"held" doc:"Bytes that are held already"`
	Pulls   int   `json:"pulls" doc:"Of the registry's pull limit"`
	Unknown bool  `json:"unknown,omitempty" doc:"At least so much: some manifests are not held"`
}

// WarmRequest has images fetched.
type WarmRequest struct {
	Refs      []string `json:"refs" minItems:"1" maxItems:"10000"`
	Platforms []string `json:"platforms,omitempty" maxItems:"20" doc:"Such as linux/amd64, or all; those that are pulled here when absent"`
	EveryS    int64    `json:"every_s,omitempty" minimum:"600" maximum:"31536000" doc:"Seconds: fetch them again and again, also after a restart"`
	KeepPulls float64  `json:"keep_pulls,omitempty" minimum:"0" maximum:"1" doc:"Share of a registry's pull limit that is left to clients"`
	DryRun    bool     `json:"dry_run,omitempty" doc:"Say what would be fetched, and fetch nothing"`
}

// Warmed is what comes of a WarmRequest: one of these.
type Warmed struct {
	Estimate *Estimate `json:"estimate,omitempty" doc:"Of a dry run"`
	Schedule *Schedule `json:"schedule,omitempty" doc:"Where they are fetched again and again"`
	Job      *Job      `json:"job,omitempty" doc:"That fetches them"`
}

// Jobs is the long work of the box.
type Jobs struct {
	Jobs []Job `json:"jobs" doc:"The latest first; the last 100 that are over"`
}

// Schedules is what is fetched again and again.
type Schedules struct {
	Schedules []Schedule `json:"schedules" doc:"The oldest first"`
}

// ID names a job or a schedule.
type ID struct {
	ID string `path:"id" maxLength:"64"`
}

// Pins is what is never evicted to make room.
type Pins struct {
	Pins    []Pin         `json:"pins" doc:"By reference, frozen tags included"`
	Summary pins.Overview `json:"summary"`
}

// PinRequest pins an image, or replaces its pin.
type PinRequest struct {
	Ref       string    `json:"ref" minLength:"1" maxLength:"600" doc:"A tag keeps what it names, also when it moves; a digest keeps that image"`
	Platforms []string  `json:"platforms,omitempty" maxItems:"20" doc:"Such as linux/amd64, or all; those that are pulled here when absent"`
	Until     time.Time `json:"until,omitzero" doc:"When the pin ends by itself"`
	Note      string    `json:"note,omitempty" maxLength:"500"`
	DryRun    bool      `json:"dry_run,omitempty" doc:"Say what it takes, and pin nothing"`
}

// UnpinQuery names a pin.
type UnpinQuery struct {
	RefQuery
	DryRun bool `query:"dry_run" doc:"Say what is pinned, and change nothing"`
}

// VerifyRequest has files hashed by a job.
type VerifyRequest struct {
	Ref string `json:"ref,omitempty" maxLength:"600" doc:"Of an image; all files when absent"`
}

// EvictionQuery is how much is to be evicted.
type EvictionQuery struct {
	Bytes int64 `query:"bytes" minimum:"1" default:"1073741824"`
}

// EvictRequest is EvictionQuery with what is to be done.
type EvictRequest struct {
	Bytes  int64 `json:"bytes" minimum:"1" doc:"On disk, at least"`
	DryRun bool  `json:"dry_run,omitempty" doc:"Say what would be evicted, and evict nothing"`
}

// Holdings is what is stored.
type Holdings struct {
	Digests []digest.Digest `json:"digests" doc:"Of manifests and blobs, sorted"`
}

// ExportRequest says what is exported.
type ExportRequest struct {
	Refs          []string        `json:"refs" minItems:"1" maxItems:"10000"`
	Platforms     []string        `json:"platforms,omitempty" maxItems:"20" doc:"Such as linux/amd64, or all; those that are pulled here when absent"`
	NotIn         []digest.Digest `json:"not_in,omitempty" maxItems:"1000000" doc:"Digests that are left out: what the holdings of the other box list"`
	IncludeShared bool            `json:"include_shared,omitempty" doc:"Also images that were pulled with the credentials of this box"`
	DryRun        bool            `json:"dry_run,omitempty" doc:"Say what would be fetched first and how large the bundle is, as JSON; fetch and write nothing"`
}

// ExportCost is what an export takes.
type ExportCost struct {
	Estimate Estimate     `json:"estimate" doc:"What would be fetched first"`
	Plan     *bundle.Plan `json:"plan,omitempty" doc:"The bundle, where nothing is to be fetched"`
}

// OutageQuery is which images count.
type OutageQuery struct {
	Days     int  `query:"days" minimum:"1" maximum:"3650" doc:"Those that clients have pulled within so many days; HUBCAP_OUTAGE_DAYS when absent"`
	Verified bool `query:"verified" doc:"Of an image that would survive, each file must have been verified within HUBCAP_VERIFY_INTERVAL too"`
}

// RepairRequest has what images lack fetched.
type RepairRequest struct {
	DryRun bool `json:"dry_run,omitempty" doc:"Say what would be fetched, and fetch nothing"`
}

// OfflineRequest takes the box offline, or ends that.
type OfflineRequest struct {
	On   bool  `json:"on" doc:"Ask no registry"`
	ForS int64 `json:"for_s,omitempty" minimum:"1" maximum:"31536000" doc:"Seconds, after which the box asks registries again; until that is ordered when absent"`
}
