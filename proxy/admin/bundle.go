package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/bundle"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
)

const (
	tarType     = "application/x-tar"
	maxOrder    = 128 << 20        // bytes of an ExportRequest: a million digests have 75
	writeChunk  = time.Minute      // a reader of a bundle that takes longer for a piece is dropped
	readChunk   = 10 * time.Minute // a sender of a bundle may fetch in between
	afterBundle = 1 << 20          // bytes that may follow the end of a tar: programs fill it up
)

// orderOf returns what a request wants exported.
func (b *Box) orderOf(in *api.ExportRequest) (o bundle.Order, err error) {
	for _, one := range in.NotIn {
		if err := one.Validate(); err != nil {
			return o, invalid("not_in", fmt.Sprintf("%.100q: %v", one, err))
		}
	}
	refs, err := b.parseAll(in.Refs)
	return bundle.Order{Refs: refs, Platforms: in.Platforms, NotIn: in.NotIn, Shared: in.IncludeShared}, err
}

// costOf returns what an export takes.
func (b *Box) costOf(ctx context.Context, o bundle.Order) (api.ExportCost, error) {
	estimate, err := b.Bundle.Estimate(ctx, o)
	cost := api.ExportCost{Estimate: estimate}
	fails := slices.ContainsFunc(estimate.Items, func(i jobs.Item) bool { return !i.OK })
	if err == nil && estimate.Objects == 0 && !estimate.Unknown && !fails {
		cost.Plan, err = b.Bundle.Plan(ctx, o)
	}
	return cost, err
}

// streamExport registers the route that writes a bundle.
func streamExport(a huma.API, b *Box) {
	op := operation(http.MethodPost, "export", "Write images as a tar of an OCI image layout")
	op.Description = "What is not held is fetched first. The answer is the tar, or JSON in a dry run."
	op.MaxBodyBytes = maxOrder
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The bundle, or what it takes",
		Content: map[string]*huma.MediaType{
			tarType:            {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
			"application/json": {Schema: a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.ExportCost](), true, "")},
		},
	}}
	huma.Register(a, op, func(ctx context.Context, in *asked[api.ExportRequest]) (*huma.StreamResponse, error) {
		o, err := b.orderOf(&in.Body)
		if err != nil {
			return nil, asError(err)
		}
		if in.Body.DryRun {
			cost, err := b.costOf(ctx, o)
			if err != nil {
				return nil, asError(err)
			}
			return streamed(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, cost) }), nil
		}
		plan, err := b.Bundle.Plan(ctx, o)
		if err != nil {
			return nil, asError(err)
		}
		return streamed(func(w http.ResponseWriter, r *http.Request) { b.export(w, r, reference.Names(o.Refs), plan) }), nil
	})
}

// streamed is an answer that its handler writes by itself.
func streamed(answer func(w http.ResponseWriter, r *http.Request)) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		answer(w, r)
	}}
}

func answerJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the client has left
}

// export writes a bundle. One that breaks off has fewer bytes than its length says,
// so that its reader notices.
func (b *Box) export(w http.ResponseWriter, r *http.Request, what string, plan *bundle.Plan) {
	w.Header().Set("Content-Type", tarType)
	w.Header().Set("Content-Length", strconv.FormatInt(plan.Bytes, 10))
	_, _ = b.Jobs.Do(r.Context(), jobs.Work{Kind: jobs.Export, What: what, Run: func(ctx context.Context, t *jobs.Task) error {
		control := http.NewResponseController(w)
		defer context.AfterFunc(ctx, func() { _ = control.SetWriteDeadline(time.Now()) })()
		defer func() { _ = control.SetWriteDeadline(time.Time{}) }() // the connection may have another request
		t.Progress(0, plan.Objects, 0, plan.Bytes)
		return plan.Write(ctx, timedWriter{w, control}, func(objects int, bytes int64) { t.Progress(objects, plan.Objects, bytes, plan.Bytes) })
	}}) // the job says how it ended
}

// timedWriter moves the deadline with what is written.
type timedWriter struct {
	io.Writer
	control *http.ResponseController
}

func (t timedWriter) Write(p []byte) (int, error) {
	if err := t.control.SetWriteDeadline(time.Now().Add(writeChunk)); err != nil {
		return 0, err
	}
	return t.Writer.Write(p)
}

// timedReader moves the deadline with what is read.
type timedReader struct {
	io.Reader
	ctx     context.Context
	control *http.ResponseController
}

func (t timedReader) Read(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	if err := t.control.SetReadDeadline(time.Now().Add(readChunk)); err != nil {
		return 0, err
	}
	return t.Reader.Read(p)
}

// streamImport registers the route that reads a bundle.
func streamImport(a huma.API, b *Box) {
	op := operation(http.MethodPost, "import", "Take in images from a tar of an OCI image layout, or of docker save")
	op.Description = "Images that are whole become images of this box once all of the tar has come. The answer says which ones."
	op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{tarType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	op.Responses = map[string]*huma.Response{"200": {
		Description: "What came of it, also where some or all images were not taken",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Imported](), true, "")}},
	}}
	huma.Register(a, op, func(_ context.Context, o *api.ImportQuery) (*huma.StreamResponse, error) {
		return streamed(func(w http.ResponseWriter, r *http.Request) { b.intake(w, r, *o) }), nil
	})
}

// intake takes in the bundle that a request sends, and answers what came of it.
func (b *Box) intake(w http.ResponseWriter, r *http.Request, o api.ImportQuery) {
	what := "a bundle"
	if o.As != "" {
		what += " as " + o.As
	}
	if o.DryRun {
		what += " (dry run)"
	}
	var got bundle.Imported
	_, err := b.Jobs.Do(r.Context(), jobs.Work{Kind: jobs.Import, What: what, Run: func(ctx context.Context, t *jobs.Task) (err error) {
		control := http.NewResponseController(w)
		defer context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(time.Now()) })()
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
		body := timedReader{r.Body, ctx, control}
		got, err = b.Bundle.Import(ctx, body, o, func(objects int, bytes int64) {
			t.Progress(objects, objects, bytes, max(r.ContentLength, bytes))
		})
		if err == nil {
			_, _ = io.CopyN(io.Discard, body, afterBundle) // nothing depends on it
		}
		for _, one := range got.Images {
			t.Item(itemOf(one))
		}
		return err
	}})
	if err != nil {
		refuse(w, *asError(err).(*api.Error)) //nolint:errorlint,forcetypeassert // asError returns no other
		return
	}
	answerJSON(w, got)
}

// itemOf is what a job says of an image of a bundle.
func itemOf(one bundle.Image) jobs.Item {
	item := jobs.Item{Name: cmp.Or(one.Ref, one.Name), OK: one.OK, Result: "imported"}
	switch {
	case !one.OK:
		item.Result = one.Why
	case !one.Set:
		item.Result = "would be imported"
	}
	return item
}
