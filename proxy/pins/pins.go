// Package pins keeps images: those that an operator has pinned, through the API
// or in HUBCAP_PINS_FILE, and what tags are frozen to. What belongs to them is
// not evicted to make room, and is fetched again when it is lost. It knows which
// digests belong to an image; it knows neither registries nor files.
//
// A pinned tag keeps the image that it names. When it moves, the image before is
// kept until the new one is here in full. A pinned digest keeps that image.
//
// Files: pins.go (setting and removing pins), look.go (what is pinned and what
// is missing of it), tree.go (what belongs to an image), fetch.go (has missing
// parts fetched), file.go (the pins file), status.go (the read side).
package pins

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy/advice"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// MaxShare is the share of the cache that may be pinned.
const MaxShare = 0.8

// maxNote is the length in bytes of the longest note.
const maxNote = 1000

// Store is what is held; see cache.Cache.
type Store interface {
	Parts(d digest.Digest) (parts []content.Part, ok bool)
	Manifest(d digest.Digest) (cache.Manifest, bool)
}

// Ledger knows what is held, and evicts nothing that is pinned; see
// eviction.Ledger.
type Ledger interface {
	Holds(d digest.Digest) bool
	SetPinned(all iter.Seq[digest.Digest])
	Status() eviction.Status
}

// Index keeps the pins and knows what tags name; see index.Index.
type Index interface {
	Tag(name index.Name) (tag index.Tag, known bool, err error)
	Pins() iter.Seq2[index.PinRecord, error]
	PutPins(all ...index.PinRecord) error
	DeletePins(all ...index.PinName) error
}

// Fetcher fetches images; see warm.Warmer.
type Fetcher interface {
	Image(ctx context.Context, ref reference.Reference, req warm.Request, progress func(warm.Progress)) (warm.Result, error)
}

// Repository is what a box knows of a repository that a reference names.
type Repository struct {
	Registry   string // its name as it is configured
	Restricted bool   // pulled with the box's credentials: see index.Name
}

// Options is what Pins needs; every field is required but Frozen and File.
type Options struct {
	Store   Store
	Ledger  Ledger
	Index   Index
	Fetcher Fetcher
	Jobs    *jobs.List
	Frozen  func() iter.Seq2[index.Name, digest.Digest] // the frozen tags; nil for none
	// Repository returns what is known of a repository. The error says why
	// nothing of it can be pinned.
	Repository func(registry, repository string) (Repository, error)
	Default    string        // the registry of references that name none
	File       string        // the pins file; empty for none
	MaxBlob    int64         // bytes of the largest blob that is stored
	Every      time.Duration // between two looks at the file and at what is missing
	Now        func() time.Time
	After      func(time.Duration) <-chan time.Time
	Metrics    *metrics.Metrics
	Log        *slog.Logger
}

// Pins is the set of what is pinned. Its methods may be called at any time from
// any goroutine.
type Pins struct {
	o     Options
	wake  chan struct{} // there may be something to fetch
	known chan struct{} // closed once the ledger knows what is pinned

	changing sync.Mutex // held while the set changes, or is looked through; taken before mu
	memory   *memory    // of the last look
	seen     fileState

	mu       sync.Mutex
	pins     map[string]*pin     // by reference
	wanted   map[string]*pin     // of the pins file, and not pinned yet
	entries  map[string]entry    // of pins and frozen tags, as of the last look
	attempts map[string]*attempt // to fetch what is missing of them
	fetching string              // the reference of what is being fetched; empty for none
	pulls    []time.Time         // of manifests that were lost, within the last hour
	file     FileStatus
	bytes    int64 // of what is kept, as of the last look
	missing  int64 // of them, those that are not here
}

// pin is a pinned image. It is replaced, and not changed.
type pin struct {
	index.Pin
	ref    reference.Reference // with a tag or with a digest
	frozen digest.Digest       // what its tag is frozen to; empty if it is a pin
}

func (p *pin) key() string {
	if p.frozen != "" {
		return "frozen " + p.ref.String()
	}
	return p.ref.String()
}

func (p *pin) record() index.PinRecord { return index.PinRecord{PinName: nameOf(p.ref), Pin: p.Pin} }

func nameOf(ref reference.Reference) index.PinName {
	name := index.PinName{Registry: ref.Registry, Repository: ref.Repository, Reference: ref.Tag}
	if ref.Digest != "" {
		name.Reference = ref.Digest.String()
	}
	return name
}

// Who sets a pin.
const (
	byFile   = "file"
	byFreeze = "freeze"
)

// Why something is not pinned or unpinned.
var (
	ErrNotPinned = errors.New("it is not pinned")
	ErrFromFile  = errors.New("it is pinned in the pins file")
	ErrFrozen    = errors.New("its tag is frozen, which keeps it: thaw it")
	ErrRequest   = errors.New("wrong note, end or name")
	ErrTooLarge  = errors.New("it can never be held whole")
)

// FullError says that an image does not fit beside what is pinned already. All
// fields are bytes.
type FullError struct {
	Pinned int64 // by the other pins
	Needs  int64 // more, for this image
	Limit  int64 // that may be pinned
	Cache  int64 // the size of the cache
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s are pinned, this image needs %s; %s, %.0f%% of the %s of the cache, can be pinned",
		advice.Size(e.Pinned), advice.Size(e.Needs), advice.Size(e.Limit), MaxShare*100, advice.Size(e.Cache))
}

// New returns the pins that the index has. Nothing is looked at before Run: until
// then the ledger must not evict (eviction.Ledger.AwaitPins).
func New(o Options) *Pins {
	p := &Pins{
		o: o, wake: make(chan struct{}, 1), known: make(chan struct{}), memory: newMemory(o.Store, nil),
		pins: make(map[string]*pin), wanted: make(map[string]*pin), attempts: make(map[string]*attempt),
	}
	for r, err := range o.Index.Pins() {
		if err != nil {
			o.Log.Warn("some pins cannot be read from the index", "err", err)
			break
		}
		one := &pin{Pin: r.Pin, ref: reference.Reference{Registry: r.Registry, Repository: r.Repository}}
		if d := digest.Digest(r.Reference); d.Validate() == nil {
			one.ref.Digest = d
		} else {
			one.ref.Tag = r.Reference
		}
		p.pins[one.key()] = one
	}
	p.export()
	return p
}

// lookShare is how many times as long as a look the pause after it is, at least: with
// very many pins, looks are less frequent.
const lookShare = 50

// Run looks at the pins file and at what is missing, and has that fetched, until
// ctx ends.
func (p *Pins) Run(ctx context.Context) {
	took := p.look()
	close(p.known)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	fetching.Go(func() { p.fetchMissing(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.o.After(max(p.o.Every, took*lookShare)):
			took = p.look()
		}
	}
}

// Look finds what is pinned now. Run does so regularly; who has changed what a tag is
// frozen to need not wait for that.
func (p *Pins) Look() { p.look() }

// Known is closed once Run has told the ledger what is pinned, and it may evict.
func (p *Pins) Known() <-chan struct{} { return p.known }

// Request is an image to pin.
type Request struct {
	Ref       string    `json:"ref"`                 // as reference.Parse reads it
	Platforms []string  `json:"platforms,omitempty"` // as of warm.Request; none for those that are pulled here
	Until     time.Time `json:"until,omitzero"`      // when the pin ends; zero for never
	Note      string    `json:"note,omitempty"`      // at most 1,000 bytes
	By        string    `json:"by,omitempty"`        // who asks
}

// Cost is what a pin takes.
type Cost struct {
	Ref          string        `json:"ref"`
	Digest       digest.Digest `json:"digest,omitempty"`
	Platforms    []string      `json:"platforms,omitempty"`
	Objects      int           `json:"objects"`           // manifests and blobs of the image
	Bytes        int64         `json:"bytes"`             // of them
	Missing      int           `json:"missing"`           // of them, to be fetched
	MissingBytes int64         `json:"missing_bytes"`     // of these
	Added        int64         `json:"added"`             // bytes that no other pin keeps
	Pinned       int64         `json:"pinned"`            // bytes that the other pins keep
	Limit        int64         `json:"limit"`             // bytes that may be pinned
	Unknown      bool          `json:"unknown,omitempty"` // a dry run cannot tell what manifests name that are not held
}

// Pin pins an image, or replaces its pin. It fetches the manifests that are
// missing, to learn what belongs to the image; the rest is fetched afterwards.
// With dryRun nothing is fetched or pinned. The error is a *FullError,
// ErrTooLarge, ErrFromFile, ErrRequest, or says what is wrong with the reference,
// its repository or the fetching (see warm.Warmer.Image).
func (p *Pins) Pin(ctx context.Context, r Request, dryRun bool) (Cost, error) {
	one, err := p.parse(r.Ref)
	switch {
	case err != nil:
		return Cost{}, err
	case len(r.Note) > maxNote:
		return Cost{}, fmt.Errorf("%w: the note has %d bytes, and may have %d", ErrRequest, len(r.Note), maxNote)
	case !r.Until.IsZero() && !r.Until.After(p.o.Now()):
		return Cost{}, fmt.Errorf("%w: the pin would have ended at %s", ErrRequest, r.Until.Format(time.RFC3339))
	case r.By == byFile || r.By == byFreeze:
		return Cost{}, fmt.Errorf("%w: %q sets pins of its own", ErrRequest, r.By)
	}
	if err := p.notFromFile(one.key()); err != nil {
		return Cost{}, err
	}
	one.Pin = index.Pin{Until: r.Until, Note: r.Note, By: r.By}
	if one.Platforms, err = warm.ParsePlatforms(r.Platforms); err != nil {
		return Cost{}, err
	}
	cost, err := p.admit(ctx, one, 0, dryRun)
	if err == nil && !dryRun {
		p.o.Log.Info("an image is pinned", "image", cost.Ref, "bytes", cost.Bytes, "missing_bytes", cost.MissingBytes, "by", r.By)
		p.look()
	}
	return cost, err
}

// parse returns a pin of what a reference names, in a repository of which
// something can be pinned.
func (p *Pins) parse(ref string) (*pin, error) {
	parsed, err := reference.Parse(ref, p.o.Default)
	if err != nil {
		return nil, err
	}
	repository, err := p.o.Repository(parsed.Registry, parsed.Repository)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", parsed, err)
	}
	if parsed.Registry = repository.Registry; parsed.Digest != "" {
		parsed.Tag = ""
	}
	return &pin{ref: parsed}, nil
}

// notFromFile returns an error if the pin of a reference is set in the pins file.
func (p *Pins) notFromFile(key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, pinned := p.pins[key]
	if !pinned {
		one = p.wanted[key]
	}
	if one != nil && one.By == byFile {
		return fmt.Errorf("%s: %w %s, and is changed there", key, ErrFromFile, p.o.File)
	}
	return nil
}

// admit pins an image if it fits. keepPulls is as of warm.Request.
func (p *Pins) admit(ctx context.Context, one *pin, keepPulls float64, dryRun bool) (Cost, error) {
	found, err := p.o.Fetcher.Image(ctx, one.ref, warm.Request{
		Platforms: one.Platforms, KeepPulls: keepPulls, ManifestsOnly: true, DryRun: dryRun,
	}, nil)
	if err != nil {
		return Cost{}, err
	}
	if len(one.Platforms) == 0 {
		one.Pulled = found.Platforms
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	if one.By == byFile && !p.wants(one) {
		return Cost{}, errLeft
	}
	cost, err := p.costOf(one, found.Digest)
	cost.Unknown = found.Unknown
	if err != nil || dryRun {
		return cost, err
	}
	if cost.Missing == 0 {
		one.Held = found.Digest
	}
	one.At = p.o.Now().UTC().Truncate(time.Second)
	p.mu.Lock()
	if before, pinned := p.pins[one.key()]; pinned && before.Held != "" && one.Held == "" {
		one.Held = before.Held
	}
	p.mu.Unlock()
	if err := p.o.Index.PutPins(one.record()); err != nil {
		return cost, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pins[one.key()] = one
	delete(p.wanted, one.key())
	delete(p.attempts, one.key())
	return cost, nil
}

// errLeft says that the pins file does not ask for an image any more.
var errLeft = errors.New("its line has left the pins file")

// wants reports whether the pins file still asks for an image.
func (p *Pins) wants(one *pin) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted[one.key()] == one
}

// Unpin removes the pin of a reference. The error is ErrNotPinned, ErrFromFile,
// ErrFrozen, or says what is wrong with the reference or the index.
func (p *Pins) Unpin(ref string) error {
	parsed, err := reference.Parse(ref, p.o.Default)
	if err != nil {
		return err
	}
	if repository, err := p.o.Repository(parsed.Registry, parsed.Repository); err == nil { // else it may have been pinned before
		parsed.Registry = repository.Registry
	}
	if parsed.Digest != "" {
		parsed.Tag = ""
	}
	key := parsed.String()
	if err := p.notFromFile(key); err != nil {
		return err
	}
	p.changing.Lock()
	p.mu.Lock()
	one, pinned := p.pins[key]
	_, frozen := p.entries[(&pin{ref: parsed, frozen: "any"}).key()]
	p.mu.Unlock()
	switch {
	case pinned:
		err = p.remove("an image is unpinned", one)
	case frozen:
		err = fmt.Errorf("%s: %w", key, ErrFrozen)
	default:
		err = fmt.Errorf("%s: %w", key, ErrNotPinned)
	}
	p.changing.Unlock()
	if err == nil {
		p.look()
	}
	return err
}

// remove removes pins, and tries those again that did not fit. p.changing is held.
func (p *Pins) remove(what string, all ...*pin) error {
	if len(all) == 0 {
		return nil
	}
	var names []index.PinName
	for _, one := range all {
		names = append(names, nameOf(one.ref))
	}
	if err := p.o.Index.DeletePins(names...); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range all {
		p.o.Log.Info(what, "image", one.ref.String(), "by", one.By)
		delete(p.pins, one.key())
		delete(p.attempts, one.key())
	}
	for key := range maps.Keys(p.wanted) {
		delete(p.attempts, key)
	}
	return nil
}
