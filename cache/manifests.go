package cache

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	oci "hubcap/cache/content"
)

// MaxManifest is the size in bytes of the largest manifest that is taken: the
// least that the OCI distribution specification asks registries to support.
const MaxManifest = 4 << 20

// Manifest is a manifest as its registry sent it. Its parts are not changed.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Body      []byte
	Closed    bool   // not for everybody; who is shown it is the caller's to know
	Host      string // the registry it was got from, where it is closed

	Content oci.Manifest  // of the Body; without a Kind for a list. The cache fills it in
	used    *atomic.Int64 // when its image was last used, in seconds since 1970
}

// parsed returns the manifest with its Content.
func (m Manifest) parsed() Manifest {
	m.Content, _ = oci.Parse(m.Body) // what is neither an image nor an index has none
	m.used = new(atomic.Int64)
	return m
}

// manifests keeps manifests in memory, the most recently used ones.
type manifests struct {
	limit int64

	mu    sync.Mutex
	list  *simplelru.LRU[digest.Digest, Manifest]
	bytes int64
}

func newManifests(limit int64) *manifests {
	m := &manifests{limit: limit}
	list, err := simplelru.NewLRU(math.MaxInt, func(_ digest.Digest, gone Manifest) { m.bytes -= gone.cost() })
	if err != nil {
		panic(err) // only a size below one is an error
	}
	m.list = list
	return m
}

// cost is what a manifest takes in memory: its body, about as much again for
// its Content, and its entry.
func (m Manifest) cost() int64 { return 2*int64(len(m.Body)) + 512 }

func (m *manifests) get(d digest.Digest) (Manifest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list.Get(d)
}

// put takes a manifest. One that is there for everybody stays so.
func (m *manifests) put(one Manifest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if before, ok := m.list.Peek(one.Digest); ok && !before.Closed {
		one.Closed = false
	}
	m.list.Remove(one.Digest)
	m.list.Add(one.Digest, one)
	m.bytes += one.cost()
	for m.bytes > m.limit && m.list.Len() > 1 {
		m.list.RemoveOldest()
	}
}

func (m *manifests) isFrom(d digest.Digest, host string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	one, ok := m.list.Peek(d)
	return ok && one.Closed && one.Host == host
}

// reveal makes the manifest d one for everybody.
func (m *manifests) reveal(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one, ok := m.list.Peek(d); ok && one.Closed {
		one.Closed = false
		m.list.Add(d, one)
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
	b, err := c.held(Want{Digest: d, ours: true})
	if err != nil {
		return Manifest{}, false
	}
	defer b.Close()
	one, err := c.load(b)
	if err != nil {
		switch {
		case errors.Is(err, ErrWrongContent):
			c.lost(d, b.Size, b.Size, err)
		case !errors.Is(err, errNoManifest):
			_ = c.unreadable(d, 0, err)
		}
		return Manifest{}, false
	}
	c.manifests.put(one)
	return one, true
}

// errNoManifest says that a blob is something else, which is no harm.
var errNoManifest = errors.New("not a manifest")

// load reads a manifest from its file and verifies it.
func (c *Cache) load(b *Blob) (Manifest, error) {
	if b.Size > MaxManifest {
		return Manifest{}, errNoManifest
	}
	d := b.want.Digest
	body, err := io.ReadAll(b.body.(*held).file)
	if err != nil {
		return Manifest{}, err
	}
	if d.Algorithm().FromBytes(body) != d {
		return Manifest{}, ErrWrongContent
	}
	if stat, err := c.o.Store.Stat(b.body.(*held).file); err == nil {
		c.verified(d, stat)
	}
	mediaType, err := c.o.Index.MediaType(d)
	if err != nil {
		c.indexFailed(err)
	}
	one := Manifest{Digest: d, MediaType: mediaType, Body: body, Closed: c.classes.of(d) == blobs.ClassClosed}.parsed()
	if one.MediaType == "" { // the index has forgotten it
		one.MediaType = one.Content.MediaType
	}
	if one.MediaType == "" {
		return Manifest{}, errNoManifest
	}
	return one, nil
}

// useEvery is how often the use of an image counts as a use of its parts: the
// order of eviction need not be finer.
const useEvery = 10 * time.Second

// UseImage notes that a client was given the manifest d: what is held of its
// image counts as used too. A client that has the lower layers of an image
// never asks for them; without this they would be evicted before the layers
// above them. Of an index, all images that are held are used.
func (c *Cache) UseImage(d digest.Digest) { c.useImage(d, oci.MaxNesting) }

func (c *Cache) useImage(d digest.Digest, depth int) {
	m, held := c.manifests.get(d)
	if !held {
		m, held = c.Manifest(d)
	}
	if !held || !m.use(c.o.Now()) {
		return
	}
	m.Content.Blobs(func(b oci.Blob) bool {
		if _, held := c.o.Ledger.Touch(b.Digest); held {
			c.usage.touch(b.Digest)
		}
		return true
	})
	for _, child := range m.Content.Manifests {
		if depth > 0 && c.o.Ledger.Holds(child.Digest) {
			c.useImage(child.Digest, depth-1)
		}
	}
}

// use reports whether the use of the image at the time now counts: not again
// within useEvery.
func (m Manifest) use(now time.Time) bool {
	before := m.used.Load()
	age := now.Unix() - before
	return (age < 0 || age >= int64(useEvery/time.Second)) && m.used.CompareAndSwap(before, now.Unix())
}

// PutManifest takes a manifest whose body hashes to its digest. It is served
// from memory at once; stored is called when it is on disk too, and not at
// all when it cannot be put there.
func (c *Cache) PutManifest(one Manifest, stored func()) {
	one = one.parsed()
	c.manifests.put(one)
	c.work(func() {
		defer func() {
			if p := recover(); p != nil {
				c.panicked("the storing of a manifest", one.Digest, p)
			}
		}()
		if err := c.store(one); err != nil {
			c.o.Log.Warn("a manifest is served from memory only", "digest", one.Digest, "err", err)
			return
		}
		stored()
	})
}

// store writes a manifest to disk.
func (c *Cache) store(one Manifest) (err error) {
	defer c.Remove(one.Digest) // what was doomed while the lock was held
	defer c.locks.lock(one.Digest)()
	if err := c.writable(); err != nil {
		return err
	}
	if err := c.removeLocked(one.Digest); err != nil {
		return err
	}
	c.manifests.put(one) // the removal took it away
	_, held := c.o.Ledger.Touch(one.Digest)
	if _, unread := c.unread.find(one.Digest); held && !unread {
		if one.Closed {
			c.noteFrom(one.Digest, one.Host)
		} else {
			c.revealLocked(one.Digest)
		}
		c.putMediaType(one)
		return nil
	}
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
	class := blobs.ClassOpen
	if one.Closed {
		class = blobs.ClassClosed
	}
	stat, err := w.Commit(size, class)
	if err != nil {
		return err
	}
	c.superseded(one.Digest)
	c.classed(one.Digest, class, one.Host)
	c.trust.verified(one.Digest, stat, c.o.Now())
	c.o.Ledger.Commit(one.Digest, size, size)
	c.usage.touch(one.Digest)
	c.putMediaType(one)
	return nil
}

func (c *Cache) putMediaType(one Manifest) {
	if err := c.o.Index.PutMediaType(one.Digest, one.MediaType); err != nil {
		c.indexFailed(err)
	}
}
