package cache

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/cache/fill"
	"hubcap/eviction"
)

// maxWalk is how many manifests are visited at most from one index, itself
// included: its images, those of indexes in it, and so on.
const maxWalk = 4096

// Parts returns what the manifest d names; ok is false where it is not held. A
// file is read only for a manifest whose parts are not in memory: before
// learnEdges has come to it, or where the index has lost its media type.
func (c *Cache) Parts(d digest.Digest) (parts []content.Part, ok bool) {
	parts, known := c.edges.Parts(d)
	if known && (c.manifests.has(d) || c.Has(Want{Digest: d, Ours: true})) {
		return parts, true
	}
	if !c.o.Ledger.Holds(d) && !c.walking() && !c.manifests.has(d) {
		return nil, false
	}
	m, held := c.Manifest(d)
	if !held {
		return nil, false
	}
	c.edges.Put(d, partsOf(m.Body))
	return c.edges.Parts(d)
}

// partsOf returns what a manifest names, nothing for what is none.
func partsOf(body []byte) []content.Part {
	m, err := content.Parse(body)
	if err != nil {
		return nil
	}
	return m.Parts()
}

// Named reports whether a manifest that is held names d, and returns the size
// in bytes that it gives; negative when it gives none. It is a hint: the digest
// decides.
func (c *Cache) Named(d digest.Digest) (size int64, named bool) { return c.edges.Named(d) }

// walkManifests calls visit with d and with all manifests that can be reached from it
// through manifests that are held, each once; ok and parts are as for Parts.
func (c *Cache) walkManifests(d digest.Digest, visit func(one content.Part, parts []content.Part, ok bool)) {
	seen := map[digest.Digest]bool{d: true}
	for queue := []content.Part{{Digest: d, Size: -1, Role: content.RoleChild}}; len(queue) > 0; queue = queue[1:] {
		parts, ok := c.Parts(queue[0].Digest)
		visit(queue[0], parts, ok)
		for _, p := range parts {
			if p.Is(content.RoleChild) && !seen[p.Digest] && len(seen) < maxWalk {
				seen[p.Digest] = true
				queue = append(queue, p)
			}
		}
	}
}

// Image is an image whose manifest is held.
type Image struct {
	Digest   digest.Digest
	Size     int64          // bytes of its manifest, as an index says; negative where none names it
	Platform string         // as the index says; see content.Part
	Parts    []content.Part // its layers and its config
}

// Images returns the images that can be reached from the manifest d: itself, or
// those of an index and of indexes in it. An index of nothing counts as an image
// of nothing. missing are the manifests among them that are not held.
func (c *Cache) Images(d digest.Digest) (images []Image, missing []content.Part) {
	c.walkManifests(d, func(one content.Part, parts []content.Part, ok bool) {
		switch {
		case !ok:
			missing = append(missing, one)
		case len(parts) == 0 || !parts[0].Is(content.RoleChild):
			images = append(images, Image{one.Digest, one.Size, one.Platform, parts})
		}
	})
	return images, missing
}

// Indexes returns the indexes that the manifest d can be reached from, the
// nearest first; at most maxWalk.
func (c *Cache) Indexes(d digest.Digest) []digest.Digest {
	all := []digest.Digest{d}
	seen := map[digest.Digest]bool{d: true}
	for i := 0; i < len(all); i++ {
		for _, index := range c.edges.Naming(all[i]) {
			if !seen[index] && len(seen) <= maxWalk {
				seen[index] = true
				all = append(all, index)
			}
		}
	}
	return all[1:]
}

// useEvery is how often the use of an image counts as a use of its parts: the
// order of eviction need not be finer.
const useEvery = 10 * time.Second

// platformsTogether is how much earlier than the others of its index an image
// may have been requested to be used with the index.
const platformsTogether = 7 * 24 * time.Hour

// UseImage notes that a client was given the manifest d: what is held of its
// image counts as used too. A client that has the lower layers of an image
// never asks for them; without this they would be evicted before the layers
// above them. Of an index, the images are used that were themselves requested
// within platformsTogether of the latest such request: a client that has its
// image requests the index alone, and a platform that nobody pulls any more is
// not kept by the others.
func (c *Cache) UseImage(d digest.Digest) {
	counts, known := c.manifests.use(d, c.o.Now())
	if !known {
		if _, held := c.Manifest(d); !held {
			return
		}
		counts, _ = c.manifests.use(d, c.o.Now())
	}
	if !counts {
		return
	}
	left := make(map[digest.Digest]bool)
	c.walkManifests(d, func(one content.Part, parts []content.Part, _ bool) {
		if left[one.Digest] {
			return
		}
		c.manifests.leaveOut(parts, left)
		for _, p := range parts {
			if _, held := c.o.Ledger.Touch(p.Digest); held {
				c.usage.touch(p.Digest)
			}
			c.capacity.Used(p.Digest, c.o.Ledger.Segment(p.Size) == eviction.Small)
		}
	})
}

// learnEdges reads the manifests that the index knows by their media type and
// whose parts are not in memory yet. It begins when the walk of the files has
// ended, and reads one at a time.
func (c *Cache) learnEdges() {
	defer close(c.learned)
	select {
	case <-c.walked:
	case <-c.base.Done():
	}
	for one, err := range c.o.Index.MediaTypes() {
		if c.base.Err() != nil {
			return
		}
		if err != nil {
			c.indexFailed(err)
			return
		}
		if !c.edges.Knows(one.Digest) {
			c.learnEdgesOf(one.Digest)
		}
	}
	c.o.Log.Debug("all manifests are read", "manifests", c.edges.Len())
}

// learnEdgesOf reads one manifest. Its digest is locked, so that it is not
// removed meanwhile; what else locks it will put its edges.
func (c *Cache) learnEdgesOf(d digest.Digest) {
	unlock, free := c.digests.TryLock(d)
	if !free {
		return
	}
	defer c.Remove(d) // what was evicted while the lock was held
	defer unlock()
	if !c.o.Ledger.Holds(d) {
		return
	}
	one := c.files.Acquire(d)
	defer c.files.Release(d, one)
	f, stat, err := c.openFile(d, c.classes.of(d))
	if err == nil {
		defer f.Close()
		var body []byte
		if body, err = c.readManifest(d, f, stat.Size); err == nil {
			c.edges.Put(d, partsOf(body))
		}
	}
	if err != nil {
		c.unreadManifest(d, stat.Size, err)
	}
}

// readManifest reads the file of a manifest, of size bytes, and verifies it. The
// error may be errNoManifest or fill.ErrWrongContent.
func (c *Cache) readManifest(d digest.Digest, f *os.File, size int64) ([]byte, error) {
	if size > MaxManifest {
		return nil, errNoManifest
	}
	body, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	if d.Algorithm().FromBytes(body) != d {
		return nil, fill.ErrWrongContent
	}
	if stat, err := c.o.Store.Stat(f); err == nil {
		c.verified(d, stat)
	}
	return body, nil
}

// unreadManifest decides what becomes of a file that readManifest failed for.
func (c *Cache) unreadManifest(d digest.Digest, size int64, err error) {
	switch {
	case errors.Is(err, fill.ErrWrongContent):
		c.lost(d, size, size, err)
	case !errors.Is(err, errNoManifest):
		_ = c.unreadable(d, 0, err)
	}
}
