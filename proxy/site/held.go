package site

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/network"
)

// While a registry fails, the boxes of a site tell each other what they hold of it. All
// are asked at once, and none waits for another.

// askHeld asks each other box that does not rest, all at once, and returns what they
// answered.
func askHeld[T any](ctx context.Context, s *Site, ask func(ctx context.Context, b *box) (T, error)) (all []T) {
	if !s.HasBoxes() {
		return nil
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, b := range s.awake(s.boxes) {
		if b.self {
			continue
		}
		asking.Go(func() {
			got, err := ask(ctx, b)
			if err != nil {
				s.o.Log.Debug("a box does not hold it", "box", b.name, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, got)
		})
	}
	asking.Wait()
	return all
}

// Tag is what a box knows of a tag.
type Tag struct {
	upstream.Manifest
	Age time.Duration // since its registry confirmed it
}

// HeldTag returns the manifest of a tag of the repository name at the registry host, as
// the box says whose registry confirmed it last. The manifest hashes to its digest; that
// the tag names it is the box's word. The error is ErrNone.
func (s *Site) HeldTag(ctx context.Context, host, name, tag string) (Tag, error) {
	all := askHeld(ctx, s, func(ctx context.Context, b *box) (Tag, error) {
		m, header, err := s.document(ctx, b, question{host: host, path: name + "/manifests/" + tag, held: s.o.BoxTime}, digestHeader)
		if err == nil && m.Digest == "" {
			err = errWrong
		}
		return Tag{m, ageOf(header)}, err
	})
	return youngest(all, func(t Tag) time.Duration { return t.Age })
}

// digestHeader is the digest that an answer names, empty if that is none.
func digestHeader(h http.Header) digest.Digest {
	d, err := digest.Parse(h.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return d
}

// ageOf is the age of an answer, 0 if it does not say it.
func ageOf(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Age"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// youngest returns the one with the lowest age.
func youngest[T any](all []T, age func(T) time.Duration) (best T, err error) {
	if len(all) == 0 {
		return best, ErrNone
	}
	best = all[0]
	for _, one := range all[1:] {
		if age(one) < age(best) {
			best = one
		}
	}
	return best, nil
}

// list is a list that a box holds.
type list struct {
	body []byte
	age  time.Duration
}

func (l list) aged() time.Duration { return l.age }

// heldList returns a list, below the path of a repository.
func (s *Site) heldList(ctx context.Context, host, path string) (list, error) {
	all := askHeld(ctx, s, func(ctx context.Context, b *box) (list, error) {
		m, header, err := s.document(ctx, b, question{host: host, path: path, held: s.o.BoxTime}, func(http.Header) digest.Digest { return "" })
		if err == nil && !json.Valid(m.Body) {
			err = errWrong
		}
		return list{m.Body, ageOf(header)}, err
	})
	return youngest(all, list.aged)
}

// HeldTags returns the tags of a repository, as the box says whose registry confirmed
// them last, and how long ago that was. The error is ErrNone, or that it is no list.
func (s *Site) HeldTags(ctx context.Context, host, name string) (tags []string, age time.Duration, err error) {
	found, err := s.heldList(ctx, host, name+"/tags/list")
	if err != nil {
		return nil, 0, err
	}
	var body struct{ Tags []string }
	if err := json.Unmarshal(found.body, &body); err != nil || body.Tags == nil {
		return nil, 0, errWrong
	}
	return body.Tags, found.age, nil
}

// HeldReferrers is HeldTags for the descriptors of what refers to subject.
func (s *Site) HeldReferrers(ctx context.Context, host, name string, subject digest.Digest) (all []json.RawMessage, age time.Duration, err error) {
	found, err := s.heldList(ctx, host, name+"/referrers/"+url.PathEscape(subject.String()))
	if err != nil {
		return nil, 0, err
	}
	var body struct{ Manifests []json.RawMessage }
	if err := json.Unmarshal(found.body, &body); err != nil || body.Manifests == nil {
		return nil, 0, errWrong
	}
	return body.Manifests, found.age, nil
}

// HeldManifest returns a manifest that any box holds. The error is ErrNone, or ctx's.
func (s *Site) HeldManifest(ctx context.Context, host, name string, d digest.Digest) (upstream.Manifest, error) {
	q := question{host: host, path: name + "/manifests/" + d.String(), held: s.o.BoxTime}
	all := askHeld(ctx, s, func(ctx context.Context, b *box) (upstream.Manifest, error) { return s.manifestOf(ctx, b, q, d) })
	if len(all) == 0 {
		return upstream.Manifest{}, ErrNone
	}
	return all[0], nil
}

// HeldSize returns the size in bytes of a blob that any box holds. The error is ErrNone.
func (s *Site) HeldSize(ctx context.Context, host, name string, d digest.Digest) (int64, error) {
	q := question{method: http.MethodHead, host: host, path: name + "/blobs/" + d.String(), held: s.o.BoxTime}
	all := askHeld(ctx, s, func(ctx context.Context, b *box) (int64, error) {
		resp, err := s.ask(ctx, b, q)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		return resp.ContentLength, nil
	})
	if len(all) == 0 {
		return 0, ErrNone
	}
	return all[0], nil
}

// OpenHeld opens a blob at a box that holds it; see cache.Source. The error is ErrNone, or
// ctx's.
func (s *Site) OpenHeld(ctx context.Context, host, name string, d digest.Digest, off, n int64) (*cache.Stream, error) {
	if !s.HasBoxes() {
		return nil, ErrNone
	}
	q := question{host: host, path: name + "/blobs/" + d.String(), header: network.Range(off, n), held: s.o.BoxTime}
	for _, b := range s.others(d) {
		stream, err := s.open(ctx, b, q)
		if err == nil {
			stream.Place = s.placeOf(b, nil)
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.o.Log.Debug("a box does not hold a blob", "box", b.name, "digest", d, "err", err)
	}
	return nil, ErrNone
}
