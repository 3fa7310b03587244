"""Which path is answered by what."""

from django.urls import path

from wall import views

urlpatterns = [
    path("", views.home),
    path("healthz", views.health),
    path("api/notes", views.notes),
]
