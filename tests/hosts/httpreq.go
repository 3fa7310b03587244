// A DNS provider for Caddy: has an HTTP server write the records, as `httpreq` of lego does for Traefik.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/libdns/libdns"
)

type provider struct {
	Endpoint string `json:"endpoint"`
	Username string `json:"username"`
	Password string `json:"password"`
}

func init() { caddy.RegisterModule(new(provider)) }

func (*provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "dns.providers.httpreq",
		New: func() caddy.Module { return new(provider) },
	}
}

func (p *provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	fields := map[string]*string{
		"endpoint": &p.Endpoint, "username": &p.Username, "password": &p.Password,
	}
	d.Next()
	for d.NextBlock(0) {
		field, known := fields[d.Val()]
		if !known || !d.Args(field) {
			return d.ArgErr()
		}
	}
	return nil
}

func (p *provider) Provision(caddy.Context) error {
	replacer := caddy.NewReplacer()
	for _, field := range []*string{&p.Endpoint, &p.Username, &p.Password} {
		*field = replacer.ReplaceAll(*field, "")
	}
	return nil
}

func (p *provider) ask(ctx context.Context, verb, zone string, records []libdns.Record) error {
	for _, record := range records {
		name := libdns.AbsoluteName(record.Name, zone)
		body, _ := json.Marshal(map[string]string{"fqdn": name, "value": record.Value})
		request, err := http.NewRequestWithContext(ctx, "POST", p.Endpoint+verb, bytes.NewReader(body))
		if err != nil {
			return err
		}
		request.SetBasicAuth(p.Username, p.Password)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", verb, answer.Status)
		}
	}
	return nil
}

func (p *provider) AppendRecords(
	ctx context.Context, zone string, records []libdns.Record,
) ([]libdns.Record, error) {
	return records, p.ask(ctx, "/present", zone, records)
}

func (p *provider) DeleteRecords(
	ctx context.Context, zone string, records []libdns.Record,
) ([]libdns.Record, error) {
	return records, p.ask(ctx, "/cleanup", zone, records)
}
