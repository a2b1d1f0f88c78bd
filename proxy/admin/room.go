package admin

import (
	"context"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/purge"
)

// PurgeImages removes images, and what nothing else needs then.
func (b *Box) PurgeImages(_ context.Context, in *api.PurgeRequest) (*api.Purged, error) {
	if in.Ref != "" {
		if _, err := b.parse(in.Ref); err != nil {
			return nil, err
		}
	}
	if in.Digest != "" {
		if err := digest.Digest(in.Digest).Validate(); err != nil {
			return nil, invalid("digest", err.Error())
		}
	}
	gone, err := b.Purge.Purge(purge.Request{
		Ref: in.Ref, Repository: in.Repository, Digest: digest.Digest(in.Digest), DryRun: in.DryRun, Force: in.Force,
	})
	return &gone, err
}

// Verify has files hashed by a job.
func (b *Box) Verify(_ context.Context, in *api.VerifyRequest) (*api.Job, error) {
	if in.Ref == "" {
		job, err := b.Warm.StartVerify(nil)
		return &job, err
	}
	ref, err := b.parse(in.Ref)
	if err != nil {
		return nil, err
	}
	job, err := b.Warm.StartVerify(&ref)
	return &job, err
}

// maxEvicted is how many objects GetEviction returns at most.
const maxEvicted = 1000

// GetEviction returns what would be evicted to make room, and evicts nothing.
func (b *Box) GetEviction(_ context.Context, q *api.EvictionQuery) (*api.Eviction, error) {
	e := &api.Eviction{Objects: []api.Evicted{}, Pinned: b.Ledger.Status().Pinned.Bytes}
	for o := range b.Ledger.Next(maxEvicted) {
		if e.Bytes >= q.Bytes {
			break
		}
		e.Bytes += o.Size
		e.Objects = append(e.Objects, api.Evicted{Digest: o.Digest.String(), Size: o.Size, Used: o.Used, Partial: o.Partial})
	}
	return e, nil
}
