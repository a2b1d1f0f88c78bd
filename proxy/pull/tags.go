package pull

import (
	"context"

	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// What follows is for operators. A repository that clients pull from with their
// own accounts refuses it: Puller.Repository with ErrHidden, or these methods with
// freshness.ErrPassthrough.

// History returns the digests that a tag has named, and what it means now; see
// freshness.Resolver.
func (r Repository) History(tag string) ([]freshness.Line, freshness.TagStatus, error) {
	return r.puller.o.Tags.History(r.question(), tag)
}

// Freeze has a tag answered with one digest; see freshness.Resolver.
func (r Repository) Freeze(ctx context.Context, tag string, o freshness.FreezeOrder) (freshness.TagStatus, error) {
	return r.puller.o.Tags.Freeze(ctx, r.question(), tag, o)
}

// RollbackTo returns the digest that a rollback freezes a tag to; see
// freshness.Resolver.
func (r Repository) RollbackTo(tag, to string) (freshness.Line, error) {
	return r.puller.o.Tags.RollbackTo(r.question(), tag, to)
}

// Thaw ends a freeze; see freshness.Resolver.
func (r Repository) Thaw(tag string) (freshness.TagStatus, error) {
	return r.puller.o.Tags.Thaw(r.question(), tag)
}

// Adopt ends the cool-down of a tag; see freshness.Resolver.
func (r Repository) Adopt(ctx context.Context, tag string) (freshness.TagStatus, error) {
	question := r.questionOf(func(ctx context.Context) *upstream.Client { return r.client(ctx, Reference{Tag: tag}) })
	return r.puller.o.Tags.Adopt(ctx, question, tag)
}
