package admin

import (
	"context"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/pins"
	"hubcap/proxy/warm"
)

// GetPins returns what is never evicted to make room.
func (b *Box) GetPins(context.Context, *struct{}) (*api.Pins, error) {
	return &api.Pins{Pins: b.Pins.List(), Summary: b.Pins.Overview()}, nil
}

// Pin pins an image, or replaces its pin. What is missing is fetched behind it.
func (b *Box) Pin(ctx context.Context, in *api.PinRequest) (*api.PinCost, error) {
	if _, err := b.parse(in.Ref); err != nil {
		return nil, err
	}
	if _, err := warm.ParsePlatforms(in.Platforms); err != nil {
		return nil, invalid("platforms", err.Error())
	}
	if !in.Until.IsZero() && !in.Until.After(b.Now()) {
		return nil, invalid("until", "this time is past")
	}
	cost, err := b.Pins.Pin(ctx, pins.Request{Ref: in.Ref, Platforms: in.Platforms, Until: in.Until, Note: in.Note, By: By(ctx)}, in.DryRun)
	return &cost, err
}

// Unpin removes the pin of an image, and returns the pins that are left; in a dry
// run, the pin.
func (b *Box) Unpin(_ context.Context, q *api.UnpinQuery) (*api.Pins, error) {
	ref, err := b.parse(q.Ref)
	if err != nil {
		return nil, err
	}
	if !q.DryRun {
		if err := b.Pins.Unpin(q.Ref); err != nil {
			return nil, err
		}
		return b.GetPins(context.Background(), nil)
	}
	for _, one := range b.Pins.List() {
		if one.Ref == ref.String() {
			return &api.Pins{Pins: []api.Pin{one}, Summary: b.Pins.Overview()}, nil
		}
	}
	return nil, pins.ErrNotPinned
}
