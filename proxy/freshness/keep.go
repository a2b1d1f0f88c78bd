package freshness

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// TagState is whether a tag follows its registry.
type TagState string

// The states of a tag.
const (
	Following TagState = "following"
	Frozen    TagState = "frozen"    // an operator keeps it at one digest
	Cooling   TagState = "cooling"   // it has moved at its registry, and the new digest waits for its cool-down
	Forgotten TagState = "forgotten" // for Options.Changed only
)

// stateOf returns the state of a tag. One whose freeze has ended follows its
// registry, though it has not been asked yet.
func (r *Resolver) stateOf(known index.Tag) TagState {
	switch {
	case known.Frozen == nil && known.Candidate == nil:
		return Following
	case known.Frozen == nil:
		return Cooling
	case r.frozen(known):
		return Frozen
	default:
		return Following
	}
}

// frozen reports whether a tag is frozen now.
func (r *Resolver) frozen(known index.Tag) bool {
	f := known.Frozen
	return f != nil && !f.Thawed && (f.Until.IsZero() || r.o.Now().Before(f.Until))
}

// follows reports whether a known tag takes over d, which its registry, asked at
// the time asked, has named. It does not while it is frozen, nor before the end of
// its cool-down: what was served before needs none, and a tag whose present image
// is not held whole has none, as its clients could not be served.
//
// The age of a new digest is counted by the monotonic clock as long as the
// process lives, so that setting the clock does not end a cool-down.
func (r *Resolver) follows(repo Repository, tag string, known index.Tag, d digest.Digest, asked time.Time) bool {
	switch wait := r.cooldown(repo.Host, repo.Name, tag); {
	case r.frozen(known):
		return false
	case wait <= 0 || d == known.Digest || known.Served(d):
		return true
	case known.Candidate != nil && known.Candidate.Digest == d && asked.Sub(known.Candidate.FirstSeen) >= wait:
		return true
	default:
		return !r.whole(repo, known.Digest)
	}
}

// whole reports whether the image d can be pulled from what is held; of an index,
// one of its images.
func (r *Resolver) whole(repo Repository, d digest.Digest) bool {
	images, _ := r.o.Store.Images(d)
	return slices.ContainsFunc(images, func(image cache.Image) bool {
		return !slices.ContainsFunc(image.Parts, func(p content.Part) bool {
			want := cache.Want{Digest: p.Digest, Size: p.Size, Host: repo.Host, Restricted: repo.Restricted != nil}
			want.Granted = want.Restricted && repo.Restricted.Links.Linked(repo.Host, repo.Name, p.Digest)
			return p.Is(content.RoleNeeded) && !r.o.Store.Has(want)
		})
	})
}

// moved returns the change of a tag whose registry, asked at the time asked, has
// said that it names d. The age of a tag counts from the question, as the answer
// may have been long on its way. An answer to an older question changes nothing.
//
// A tag may move in memory once the new manifest is in memory, and in the index
// once the manifest is on disk.
func (r *Resolver) moved(repo Repository, d upstream.Descriptor, asked time.Time) func(index.Tag, bool) index.Tag {
	first, next := index.ViaPull, index.ViaCheck
	if repo.Warm {
		first, next = index.ViaWarm, index.ViaWarm
	}
	return func(known index.Tag, ok bool) index.Tag {
		switch {
		case !ok:
			return tagAt(d, asked, first)
		case r.newer(known, asked):
			return known
		case r.frozen(known): // meanwhile
			return known.Named(d.Digest, asked, next)
		default:
			return known.Moved(tagAt(d, asked, next))
		}
	}
}

// newer reports whether a tag was answered about to a question later than asked.
func (r *Resolver) newer(known index.Tag, asked time.Time) bool {
	at := known.Asked()
	return at.After(asked) && !at.After(r.o.Now()) // else the clock was set back
}

// stays records that the registry, asked at the time asked, has named d, and
// returns what the known tag is answered with all the same.
func (r *Resolver) stays(repo Repository, name index.Name, known index.Tag, d digest.Digest, asked time.Time) Answer {
	how, news := lazily, known.Digest != d && (known.Candidate == nil || known.Candidate.Digest != d)
	if news {
		how = synced
	}
	tag := r.tags.update(name, how, func(now index.Tag, ok bool) index.Tag {
		switch {
		case !ok: // forgotten meanwhile
			now = known
		case r.newer(now, asked):
			return now
		}
		if !r.frozen(now) {
			now.Frozen = nil
		}
		return now.Named(d, asked, index.ViaCheck)
	})
	if news {
		r.o.Log.Info("a tag has moved at its registry, and is served as before", "tag", name.String(), "to", d, "served", tag.Digest, "state", r.stateOf(tag))
	}
	return r.withBody(repo, r.describe(tag, Confirmed))
}

// forget removes a tag that named the digest of known, unless it is frozen.
func (r *Resolver) forget(name index.Name, known index.Tag) {
	r.tags.forget(name, known.Digest, r.frozen)
}

// watchEvery is how often the registry of a frozen tag is asked, for its history.
const watchEvery = time.Hour

// watch asks behind an answer what the registry says of a frozen tag, at most
// once in watchEvery.
func (r *Resolver) watch(ctx context.Context, repo Repository, tag string, known index.Tag) {
	name := repo.tag(tag)
	question := repo.question("watch", name.String())
	since := r.o.Now().Sub(known.Asked())
	if since >= 0 && since < watchEvery || r.failures.Of(question) != nil {
		return
	}
	r.failures.Note(question, errWatched, watchEvery)
	r.begin(ctx, question, func(ctx context.Context) (Answer, error) {
		return Answer{}, r.look(ctx, repo, tag, known)
	})
}

// errWatched keeps a frozen tag from being asked about twice in watchEvery.
var errWatched = errors.New("the registry was asked about a frozen tag")

// look asks a registry what it names by a frozen tag, and records the answer.
func (r *Resolver) look(ctx context.Context, repo Repository, tag string, known index.Tag) error {
	asked := r.o.Now()
	d, err := r.headKnown(ctx, repo, tag)
	if errors.Is(err, errNoHead) {
		var m upstream.Manifest
		m, err = repo.Registry(ctx).GetManifest(ctx, repo.Name, tag)
		d = m.Descriptor
	}
	switch {
	case err == nil:
		r.refusals.answered(repo)
		r.stays(repo, repo.tag(tag), known, d.Digest, asked)
	case isGone(err):
		r.deleted(repo.tag(tag), known, asked)
	}
	return err
}

// deleted records that the registry has deleted a frozen tag.
func (r *Resolver) deleted(name index.Name, known index.Tag, at time.Time) {
	r.tags.update(name, lazily, func(now index.Tag, ok bool) index.Tag {
		if !ok {
			now = known
		}
		if f := now.Frozen; f != nil && f.Deleted.IsZero() {
			since := *f
			since.Deleted = at
			now.Frozen = &since
		}
		return now
	})
}
