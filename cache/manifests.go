package cache

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/content"
)

// MaxManifest is the size in bytes of the largest manifest that is accepted: the
// least that the OCI distribution specification asks registries to support.
const MaxManifest = 4 << 20

// Manifest is a manifest as its upstream sent it. It is not changed.
type Manifest struct {
	Digest     digest.Digest
	MediaType  string
	Body       []byte
	Parts      []content.Part // for PutManifest: what it names; nil if the caller has not parsed it
	Restricted bool           // the caller decides which clients may see it
	Host       string         // the upstream it came from, where it is restricted
}

// manifests keeps the most recently used manifests in memory.
type manifests struct {
	limit int64
	began time.Time

	mu    sync.Mutex
	list  *simplelru.LRU[digest.Digest, *remembered]
	bytes int64
}

// remembered is a manifest in memory.
type remembered struct {
	Manifest
	used time.Time // when use last returned true
}

func newManifests(limit int64, now time.Time) *manifests {
	m := &manifests{limit: limit, began: now}
	list, err := simplelru.NewLRU(math.MaxInt, func(_ digest.Digest, gone *remembered) { m.bytes -= gone.cost() })
	if err != nil {
		panic(err) // only a size below one is an error
	}
	m.list = list
	return m
}

// cost is what a manifest takes in memory: its body and its entry.
func (m Manifest) cost() int64 { return int64(len(m.Body)) + 512 }

func (m *manifests) get(d digest.Digest) (Manifest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one, ok := m.list.Get(d)
	if !ok {
		return Manifest{}, false
	}
	return one.Manifest, true
}

// use reports whether the use of the image d at the time now counts: not again
// within useEvery. known is false if d is not there.
func (m *manifests) use(d digest.Digest, now time.Time) (counts, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one, known := m.list.Peek(d)
	if !known {
		return false, false
	}
	age := now.Sub(one.used)
	if counts = age < 0 || age >= useEvery; counts { // the clock may have been set
		one.used = now
	}
	return counts, true
}

// leaveOut adds to left the manifests among parts that were last requested
// platformsTogether before another of them. Those of which no request is known
// count as requested at the start.
func (m *manifests) leaveOut(parts []content.Part, left map[digest.Digest]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	requested := func(d digest.Digest) time.Time {
		if one, ok := m.list.Peek(d); ok && one.used.After(m.began) {
			return one.used
		}
		return m.began
	}
	latest := m.began
	for _, p := range parts {
		if at := requested(p.Digest); p.Is(content.RoleChild) && at.After(latest) {
			latest = at
		}
	}
	for _, p := range parts {
		if p.Is(content.RoleChild) && latest.Sub(requested(p.Digest)) > platformsTogether {
			left[p.Digest] = true
		}
	}
}

// has reports whether d is there. It is no use of it.
func (m *manifests) has(d digest.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list.Contains(d)
}

// put takes a manifest, and returns those that left memory for it. One that is
// public stays so.
func (m *manifests) put(one Manifest) (left []digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := &remembered{Manifest: one}
	if before, ok := m.list.Peek(one.Digest); ok {
		next.used, next.Restricted = before.used, before.Restricted && one.Restricted
	}
	m.list.Remove(one.Digest)
	m.list.Add(one.Digest, next)
	m.bytes += one.cost()
	for m.bytes > m.limit && m.list.Len() > 1 {
		oldest, _, _ := m.list.RemoveOldest()
		left = append(left, oldest)
	}
	return left
}

// isFrom reports whether d is restricted and came from host.
func (m *manifests) isFrom(d digest.Digest, host string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	one, ok := m.list.Peek(d)
	return ok && one.Restricted && one.Host == host
}

// reveal makes the manifest d public.
func (m *manifests) reveal(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one, ok := m.list.Peek(d); ok {
		one.Restricted = false
	}
}

func (m *manifests) remove(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list.Remove(d)
}

// Manifest returns the manifest d if it is held, from memory as a rule.
func (c *Cache) Manifest(d digest.Digest) (Manifest, bool) {
	if one, ok := c.manifests.get(d); ok {
		if _, held := c.o.Ledger.Touch(d); held {
			c.usage.touch(d)
		}
		return one, true
	}
	want := Want{Digest: d, Ours: true}
	size, err := c.use(want)
	if err != nil {
		return Manifest{}, false
	}
	b, err := c.heldFile(want, size)
	if err != nil {
		return Manifest{}, false
	}
	defer b.Close()
	one, parts, err := c.load(b)
	if err != nil {
		c.unreadManifest(d, b.Size, err)
		return Manifest{}, false
	}
	c.remember(one, parts)
	return one, true
}

// remember keeps a manifest in memory, and what it names. Of one that leaves
// memory and has no file, nothing is known any more.
func (c *Cache) remember(one Manifest, parts []content.Part) {
	c.remembering.Lock()
	defer c.remembering.Unlock()
	c.edges.Put(one.Digest, parts)
	for _, left := range c.manifests.put(one) {
		if !c.o.Ledger.Holds(left) {
			c.edges.Remove(left)
		}
	}
}

// errNoManifest says that a blob is no manifest, which does no harm.
var errNoManifest = errors.New("not a manifest")

// load reads a manifest from its file and verifies it.
func (c *Cache) load(b *Blob) (Manifest, []content.Part, error) {
	d := b.want.Digest
	body, err := c.readManifest(d, b.body.(*held).file, b.Size)
	if err != nil {
		return Manifest{}, nil, err
	}
	mediaType, err := c.o.Index.MediaType(d)
	if err != nil {
		c.indexFailed(err)
	}
	m, err := content.Parse(body)
	if mediaType == "" && err == nil && (m.Kind == content.Image || m.Kind == content.Index) { // the index has lost it
		mediaType = m.MediaType
	}
	if mediaType == "" {
		return Manifest{}, nil, errNoManifest
	}
	return Manifest{Digest: d, MediaType: mediaType, Body: body, Restricted: c.classes.of(d) == blobs.Restricted}, m.Parts(), nil
}

// PutManifest takes a manifest whose body hashes to its digest. It is served
// from memory at once; stored is called once it is on disk, and not at all when
// it cannot be stored.
func (c *Cache) PutManifest(one Manifest, stored func()) {
	parts := one.Parts
	if one.Parts = nil; parts == nil { // Edges keeps them
		parts = partsOf(one.Body)
	}
	c.remember(one, parts)
	c.work(func() {
		defer func() {
			if p := recover(); p != nil {
				c.panicked("the storing of a manifest", one.Digest, p)
			}
		}()
		if err := c.store(one, parts); err != nil {
			c.o.Log.Warn("a manifest is served from memory only", "digest", one.Digest, "err", err)
			return
		}
		stored()
	})
}

// store writes a manifest to disk, unless it is there.
func (c *Cache) store(one Manifest, parts []content.Part) error {
	d := one.Digest
	defer c.Remove(d) // what was evicted while the lock was held
	defer c.digests.Lock(d)()
	if err := c.writable(); err != nil {
		return err
	}
	if err := c.removeLocked(d); err != nil {
		return err
	}
	c.remember(one, parts) // the removal may have removed it
	_, held := c.o.Ledger.Touch(d)
	_, unread := c.unread.find(d)
	switch {
	case !held || unread:
		if err := c.write(one); err != nil {
			return err
		}
		c.edges.Put(d, parts) // it may have left memory before it had a file
	case one.Restricted:
		c.noteFrom(d, one.Host)
	default:
		c.revealLocked(d)
	}
	if err := c.o.Index.PutMediaType(d, one.MediaType); err != nil {
		c.indexFailed(err)
	}
	return nil
}

// write makes a manifest a blob. The caller holds the lock of its digest.
func (c *Cache) write(one Manifest) (err error) {
	size := int64(len(one.Body))
	if err := c.janitor.Reserve(size); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.o.Ledger.Release(size)
		}
	}()
	w, err := c.o.Store.Create(one.Digest)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(one.Body, 0); err != nil {
		w.Discard()
		return fmt.Errorf("write: %w", err)
	}
	class := blobs.Public
	if one.Restricted {
		class = blobs.Restricted
	}
	stat, err := w.Commit(size, class)
	if err == nil {
		c.committed(one.Digest, stat, class, one.Host, size)
	}
	return err
}
