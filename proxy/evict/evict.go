// Package evict evicts at the wish of an operator, and says what is evicted next and
// why: which images an object belongs to, for how long it was not used, and which
// images an outage would then make unavailable. It decides nothing: the ledger has the
// order.
//
// Files: evict.go.
package evict

import (
	"iter"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/eviction"
)

// Cache holds manifests and blobs.
type Cache interface {
	// Evict evicts objects until they have at least some bytes on disk.
	Evict(bytes int64) []eviction.Object
	Names(d digest.Digest) (parts []content.Part, known bool) // what the manifest d names
	NamedBy(d digest.Digest) []digest.Digest
	Indexes(d digest.Digest) []digest.Digest // all manifests from which d can be reached
}

// Ledger has the order in which objects are evicted.
type Ledger interface {
	Next() iter.Seq[eviction.Object]
	Status() eviction.Status
}

// Images knows which images there are.
type Images interface {
	Names() map[digest.Digest][]string           // by the digest that each names
	Broken(gone map[digest.Digest]bool) []string // those that an outage makes unavailable without what is gone
}

// Options is what an Evictor needs; every field is required.
type Options struct {
	Cache  Cache
	Ledger Ledger
	Images Images
}

// Evictor evicts. Its methods may be called at any time from any goroutine.
type Evictor struct{ o Options }

// New returns an Evictor.
func New(o Options) *Evictor { return &Evictor{o} }

// MaxObjects is how many objects a Result lists at most, and MaxBroken how many
// images.
const (
	MaxObjects = 1000
	MaxBroken  = 100
)

// Result is what was evicted, or would be.
type Result struct {
	DryRun  bool     `json:"dry_run,omitempty"`
	Objects []Object `json:"objects" doc:"In the order of eviction; at most the first 1,000"`
	Count   int      `json:"count" doc:"Of all objects"`
	Bytes   int64    `json:"bytes" doc:"On disk, of all objects"`
	Pinned  int64    `json:"pinned" doc:"Bytes that are passed over because they are pinned"`
	Broken  int      `json:"broken" doc:"Images that would have survived an outage before, and no longer do"`
	Images  []string `json:"broken_images" doc:"Of these, at most 100, by name"`
}

// Object is what is evicted.
type Object struct {
	Digest  digest.Digest `json:"digest"`
	Kind    Kind          `json:"kind" enum:"index,manifest,config,layer,blob" doc:"blob: no manifest here names it"`
	Size    int64         `json:"size"`
	Used    time.Time     `json:"used" doc:"Last"`
	Partial bool          `json:"partial,omitempty" doc:"A download that was not finished"`
	Image   string        `json:"image,omitempty" doc:"That it belongs to; of several, the first by name"`
	Images  int           `json:"images" doc:"How many it belongs to: tags, and digests that were pulled"`
}

// Others is to how many images it belongs besides Image.
func (o Object) Others() int { return o.Images - 1 }

// Kind is what an object is.
type Kind string

// The kinds.
const (
	Index    Kind = "index"
	Manifest Kind = "manifest"
	Config   Kind = "config"
	Layer    Kind = "layer"
	Blob     Kind = "blob" // no manifest that is held names it
)

// Evict evicts, in the order in which room is made, until that has at least some
// bytes on disk. With dryRun it says what would be evicted, and evicts nothing.
func (e *Evictor) Evict(bytes int64, dryRun bool) Result {
	plan := e.next(bytes)
	broken, objects := e.o.Images.Broken(digestsOf(plan)), e.explain(plan)
	if !dryRun {
		plan = e.o.Cache.Evict(bytes)
		objects = inOrderOf(plan, objects)
	}
	r := Result{
		DryRun: dryRun, Objects: objects, Count: len(plan), Pinned: e.o.Ledger.Status().Pinned.Bytes,
		Broken: len(broken), Images: append([]string{}, broken[:min(len(broken), MaxBroken)]...),
	}
	for _, o := range plan {
		r.Bytes += o.OnDisk()
	}
	return r
}

// inOrderOf returns the rows of what was evicted: those that explain made before,
// and what is known of others, which came to be next in the meantime.
func inOrderOf(evicted []eviction.Object, explained []Object) []Object {
	known := make(map[digest.Digest]Object, len(explained))
	for _, one := range explained {
		known[one.Digest] = one
	}
	rows := make([]Object, 0, len(explained))
	for _, o := range evicted[:min(len(evicted), MaxObjects)] {
		one, ok := known[o.Digest]
		if !ok {
			one = rowOf(o)
		}
		rows = append(rows, one)
	}
	return rows
}

func rowOf(o eviction.Object) Object {
	return Object{Digest: o.Digest, Kind: Blob, Size: o.Size, Used: o.Used, Partial: o.Partial}
}

// next returns what is evicted next for so many bytes.
func (e *Evictor) next(bytes int64) (plan []eviction.Object) {
	for o := range e.o.Ledger.Next() {
		if bytes <= 0 {
			break
		}
		bytes -= o.OnDisk()
		plan = append(plan, o)
	}
	return plan
}

func digestsOf(objects []eviction.Object) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool, len(objects))
	for _, o := range objects {
		all[o.Digest] = true
	}
	return all
}

// explain says of the first objects what they are and which images they belong to.
func (e *Evictor) explain(objects []eviction.Object) []Object {
	names := e.o.Images.Names()
	all := make([]Object, 0, min(len(objects), MaxObjects))
	for _, o := range objects[:cap(all)] {
		one := rowOf(o)
		one.Kind = e.kind(o.Digest)
		images := slices.Clone(names[o.Digest])
		for _, above := range e.o.Cache.Indexes(o.Digest) {
			images = append(images, names[above]...)
		}
		if len(images) > 0 {
			slices.Sort(images)
			images = slices.Compact(images)
			one.Image, one.Images = images[0], len(images)
		}
		all = append(all, one)
	}
	return all
}

func (e *Evictor) kind(d digest.Digest) Kind {
	if parts, known := e.o.Cache.Names(d); known {
		if len(parts) > 0 && parts[0].Is(content.RoleChild) {
			return Index
		}
		return Manifest
	}
	for _, above := range e.o.Cache.NamedBy(d) {
		parts, _ := e.o.Cache.Names(above)
		for _, p := range parts {
			switch {
			case p.Digest != d:
			case p.Is(content.RoleConfig):
				return Config
			case p.Is(content.RoleChild):
				return Manifest
			default:
				return Layer
			}
		}
	}
	return Blob
}
