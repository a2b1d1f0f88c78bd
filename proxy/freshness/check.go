package freshness

import (
	"context"
	"errors"
	"time"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// checkDelay is how long a client waits for a check when there is held content
// to serve.
const checkDelay = 2 * time.Second

// errSlow means that the upstream has not answered within checkDelay.
var errSlow = errors.New("the upstream is slow: the check goes on in the background")

// recheck revalidates a stale tag; concurrent checks share one request.
func (r *Resolver) recheck(ctx context.Context, repo Repository, tag string, known index.Tag) (Answer, error) {
	name := repo.tag(tag)
	question := repo.question("check", name.String())
	r.refusals.knows(repo, tag)
	return r.revalidate(ctx, repo, question, known, func(ctx context.Context) (Answer, error) {
		known, ok := r.tags.get(name)
		switch {
		case !ok:
			answer, err := r.fetchTag(ctx, repo, tag)
			return r.orElsewhere(ctx, repo, tag, answer, err)
		case r.fresh(repo, tag, known):
			return r.withBody(repo, r.describe(known, Fresh)), nil
		}
		answer, err := r.askAgain(ctx, repo, tag, known)
		if err != nil {
			answer, err = r.afterFailure(ctx, repo, name, question, known, err)
			return r.orElsewhere(ctx, repo, tag, answer, err)
		}
		r.failures.Forget(question)
		return answer, nil
	})
}

// revalidate asks about something known; concurrent calls share one request.
// While the upstream fails or is slow, the answer is the held content.
func (r *Resolver) revalidate(ctx context.Context, repo Repository, question string, known index.Tag, ask func(context.Context) (Answer, error)) (Answer, error) {
	var slow <-chan time.Time
	if r.servable(repo, known) {
		if failure := r.failures.Of(question); failure != nil {
			return r.stale(repo, known, failure), nil
		}
		slow = r.o.After(checkDelay)
	}
	asked := r.begin(ctx, question, ask)
	select {
	case <-ctx.Done():
		return Answer{}, context.Cause(ctx)
	case <-slow:
		r.failures.Note(question, errSlow, checkAgain)
		return r.stale(repo, known, errSlow), nil
	case result := <-asked.done:
		return asked.answer(result)
	}
}

// afterFailure returns the answer after a failed check of something known: the
// held content if it may be served, and else the error. Only what its registry
// says is gone is forgotten. What the registry refuses is not served, and
// remains known.
func (r *Resolver) afterFailure(ctx context.Context, repo Repository, name index.Name, question string, known index.Tag, err error) (Answer, error) {
	failing := r.failing(ctx, repo, err)
	deleted := !failing && isGone(err) && r.o.KeepDeleted && repo.Restricted == nil
	if !failing && !deleted {
		if isGone(err) || upstream.IsKind(err, upstream.Withdrawn) {
			r.forget(name, known)
		}
		return Answer{}, r.remember(repo, name.String(), err)
	}
	since := known.Failing
	switch now := r.o.Now(); {
	case deleted: // this is an answer
		since = time.Time{}
	case since.IsZero() || since.After(now): // the clock was set back
		since = now
	}
	if !since.Equal(known.Failing) {
		known = r.tags.update(name, lazily, func(now index.Tag, ok bool) index.Tag {
			if !ok { // forgotten meanwhile
				now = known
			}
			now.Failing = since
			return now
		})
	}
	if r.servable(repo, known) || deleted && r.holds(repo, known.Digest) {
		r.failures.Note(question, err, checkAgain)
		return r.stale(repo, known, err), nil
	}
	return Answer{}, r.remember(repo, name.String(), err)
}

// askAgain asks what a known tag names now, and records it.
func (r *Resolver) askAgain(ctx context.Context, repo Repository, tag string, known index.Tag) (Answer, error) {
	name, asked := repo.tag(tag), r.o.Now()
	d, err := r.headKnown(ctx, repo, tag)
	switch {
	case errors.Is(err, errNoHead):
		return r.fetchTag(ctx, repo, tag)
	case err != nil:
		return Answer{}, err
	}
	r.refusals.answered(repo)
	moved := r.moved(repo, d, asked)
	if d.Digest == known.Digest {
		return r.withBody(repo, r.describe(r.tags.update(name, lazily, moved), Confirmed)), nil
	}
	if !r.follows(repo, tag, known, d.Digest, asked) {
		return r.stays(repo, name, known, d.Digest, asked), nil
	}
	answer, err := r.fetch(ctx, repo, d.Digest, func() { r.tags.update(name, synced, moved) })
	if err != nil {
		return Answer{}, afterMove(err)
	}
	r.tags.update(name, notYet, moved)
	r.o.Log.Info("a tag has moved", "tag", name.String(), "from", known.Digest, "to", d.Digest)
	return answer, nil
}

// afterMove returns the error of fetching what a tag has moved to. A registry
// that does not have what it has just named is failing.
func afterMove(err error) error {
	if e, ok := errors.AsType[*upstream.Error](err); ok && e.Kind == upstream.NotFound {
		failing := *e
		failing.Kind = upstream.Invalid
		return &failing
	}
	return err
}

// stale returns held content as the answer while the upstream fails.
func (r *Resolver) stale(repo Repository, known index.Tag, failure error) Answer {
	r.staleness.served(repo.Host, r.o.Now())
	answer := r.withBody(repo, r.describe(known, Stale))
	answer.Trouble, answer.Deleted = failure, isGone(failure)
	return answer
}

// servable reports whether what a tag last named is held, and may be served
// while the upstream fails.
func (r *Resolver) servable(repo Repository, known index.Tag) bool {
	return r.mayBeStale(repo, known) && r.holds(repo, known.Digest)
}

// mayBeStale reports whether what a tag last named may be served while the
// upstream fails, if it is held.
func (r *Resolver) mayBeStale(repo Repository, known index.Tag) bool {
	return repo.StaleFor < 0 || repo.StaleFor > 0 && (known.Failing.IsZero() || r.o.Now().Sub(known.Failing) < repo.StaleFor)
}

// remember records err under key if it means that a public repository does not
// have the content, and returns it. An answer about restricted content is given
// to its own client only.
func (r *Resolver) remember(repo Repository, key string, err error) error {
	if repo.Restricted == nil && NotFound(err) {
		r.failures.Note(key, err, NotFoundFor)
	}
	return err
}

// NotFound reports whether err is an answer by which there is nothing for any
// client. What is refused to the box's credentials may exist.
func NotFound(err error) bool {
	e, ok := errors.AsType[*upstream.Error](err)
	return ok && (e.Kind == upstream.NotFound || e.Kind == upstream.Withdrawn || e.Kind == upstream.Denied && !e.Credentials)
}

// failing reports whether err means that the upstream is failing, rather than
// being an answer about the repository: an error that is no answer, a refusal of
// the box's credentials (which may have expired, and are used for public
// content), a refusal by the token service (of an anonymous request, for a
// repository known to be public), and a refusal while the registry refuses
// everything.
func (r *Resolver) failing(ctx context.Context, repo Repository, err error) bool {
	e, ok := errors.AsType[*upstream.Error](err)
	switch {
	case !ok:
		return false
	case e.Failing():
		return true
	case e.Kind != upstream.Denied:
		return false
	case repo.Registry(ctx).Credentials():
		return true
	case repo.Restricted != nil:
		return false
	case e.Refusal == upstream.ByTokenService:
		return true
	default:
		return r.refusals.refused(ctx, repo, err)
	}
}

// isGone reports whether the registry says that it does not have the content.
func isGone(err error) bool {
	e, ok := errors.AsType[*upstream.Error](err)
	return ok && e.Kind == upstream.NotFound && !e.Failing()
}
